"""diffusers' scheduler_config.json, read as a schedule, a prediction, a sampler and a grid; and written.

With `compat="diffusers"` a plan retraces that library's scheduler to rounding. By default it does what the scheduler
means, without these quirks of the code (each has a test):

    prev_timestep     DDIM and PNDM step by N // steps, whatever the distance to the next timestep, so with linspace and
                      trailing spacing the noise level at the end of a step isn't the one that the next step assumes
    set_alpha_to_one  false (Stable Diffusion 1 and 2): DDIM and PNDM stop at the noise of the table's first step
    leading           with an offset may ask for a step past the table's end: an IndexError, or a repeated first step
    rounding          timesteps given to the network are rounded or cut to integers while sigma is not; between integers
                      the table is interpolated in sigma one way and in log sigma the other
    double shift      FlowMatchEuler and FlowMatchHeun take the ends of their grid from sigmas that are shifted already,
                      and shift again: with shift 3 the last sigma is 0.009, not 0.003
    2^-24             multistep and Euler schedulers put this alpha^2 where zero terminal SNR has 0
    third order       DPM-Solver++(3M) with half of the parabola's curvature, which makes its order 2
    unfinished        DEIS with Karras, exponential, beta or flow sigmas ends on a step of width 0, at its last sigma > 0
    1e-6              UniPC starts a flow at sigma = 1 - 1e-6, as it divides by alpha

One more of diffusers' differences lies in a network and not here: DiT's timestep embedding divides by 127 (half the
channels less one) where the original divides by 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.diffusion import grids, samplers, schedules
from ldm_jax.diffusion.prediction import (
    AnyKind,
    LearnedEstimate,
    Preconditioning,
    estimate,
    expand,
    input_scale,
    split_learned,
)
from ldm_jax.diffusion.samplers import Sampler
from ldm_jax.diffusion.schedules import EDM, DiscreteBetas, Knots, RectifiedFlow, Schedule
from ldm_jax.errors import InputError

PREDICTIONS: dict[str, str] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
ALMOST_ZERO = 2.0**-24


class SamplingPlan(NamedTuple):
    """All that sampling needs besides a network. initial(noise [b ...]) -> z at grid[0]."""

    schedule: Schedule
    prediction: AnyKind
    sampler: Sampler
    grid: Array
    initial: Callable[[Array], Array]

    def denoise(self, network: Callable[[Array, Array], Array]) -> Callable[[Any, Any], Any]:
        """(z, t) -> Estimate, of network(z, timestep) -> output: its input scaled, its timestep in its own units.

        An output with twice z's channels is taken apart into prediction and learned variance.
        """

        def denoise(z, t):
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            scale = expand(input_scale(self.prediction, alpha, sigma), z)
            output = network(scale * z, schedules.timestep(self.schedule, t))
            if output.shape[-1] != 2 * z.shape[-1]:
                return estimate(self.prediction, output, z, alpha, sigma)
            output, variance = split_learned(output)
            return LearnedEstimate(*estimate(self.prediction, output, z, alpha, sigma), variance)

        return denoise


class Config(dict):
    """A scheduler's config with the class's defaults filled in; a missing or null entry is the default."""

    def __init__(self, config: dict[str, Any]):
        name = config.get("_class_name")
        super().__init__(DEFAULTS | {k: v for k, v in config.items() if v is not None})
        self.name = name
        self.steps = self["num_train_timesteps"]

    def sigma_style(self) -> str | None:
        styles = [s for s in ("karras", "exponential", "beta") if self[f"use_{s}_sigmas"]]
        if len(styles) > 1:
            raise InputError(f"use_{styles[1]}_sigmas: True, with use_{styles[0]}_sigmas: only one of them is accepted")
        return styles[0] if styles else None


DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon", "steps_offset": 0, "rescale_betas_zero_snr": False,
    "clip_sample": False, "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0, "set_alpha_to_one": True, "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "use_lu_lambdas": False, "use_flow_sigmas": False, "flow_shift": 1.0,
    "use_dynamic_shifting": False, "time_shift_type": "exponential", "lambda_min_clipped": -math.inf,
    "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
    "euler_at_final": False, "final_sigmas_type": "zero", "sigma_min": None, "sigma_max": None,
    "shift_terminal": None, "predict_x0": True, "disable_corrector": (), "solver_p": None,
    "skip_prk_steps": False, "interpolation_type": "linear", "timestep_type": "discrete",
    "original_inference_steps": 50, "timestep_scaling": 10.0, "shift": 1.0, "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False, "stochastic_sampling": False,
    "sigma_data": 0.5, "sigma_schedule": "karras", "rho": 7.0, "variance_type": "fixed_small", "eta": None,
}  # fmt: skip
SPACINGS: dict[str, str] = dict.fromkeys(("DDIM", "DDPM", "PNDM", "LCM", "TCD"), "leading")
OWN: dict[str, dict[str, Any]] = {
    "DDIM": {"clip_sample": True},
    "DDPM": {"clip_sample": True},
    "PNDM": {"set_alpha_to_one": False},
    "LCM": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "TCD": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "HeunDiscrete": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2Discrete": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2AncestralDiscrete": {"beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverSinglestep": {"lower_order_final": False},
    "EDMEuler": {"sigma_min": 0.002, "sigma_max": 80.0},
    "EDMDPMSolverMultistep": {"sigma_min": 0.002, "sigma_max": 80.0},
}


def from_diffusers_scheduler(
    config: dict[str, Any],
    num_steps: int,
    compat: Literal["diffusers"] | None = None,
    *,
    sigmas: Sequence[float] | None = None,
    image_seq_len: int | None = None,
) -> SamplingPlan:
    """The plan of a diffusers scheduler_config.json for num_steps steps. See the module for what `compat` changes.

    sigmas: for the flow-matching schedulers, the pipeline's own list [num_steps] before shifting. image_seq_len: the
    tokens of an image, which configs with use_dynamic_shifting shift by. A plan's z is alpha times what the schedulers
    in sigma (Euler, Heun, KDPM2, LMS) call the sample; the others have the same z.
    """
    if compat not in (None, "diffusers"):
        raise InputError(f"compat: {compat!r} is not one of None, 'diffusers'")
    if int(num_steps) != num_steps or num_steps < 1:
        raise InputError(f"num_steps: {num_steps!r} is not a positive integer")
    name = str(config.get("_class_name")).removesuffix("Scheduler")
    if name not in READERS:
        raise InputError(f"_class_name: {config.get('_class_name')!r} is not one of {', '.join(READERS)} + 'Scheduler'")
    own = {"timestep_spacing": SPACINGS.get(name, "linspace")} | OWN.get(name, {})
    full = Config(own | {k: v for k, v in config.items() if v is not None})
    full.name = name
    if full["prediction_type"] not in PREDICTIONS:
        raise InputError(f"prediction_type: {full['prediction_type']!r} is not one of {', '.join(PREDICTIONS)}")
    if full["timestep_spacing"] not in ("linspace", "leading", "trailing"):
        raise InputError(f"timestep_spacing: {full['timestep_spacing']!r} is not one of linspace, leading, trailing")
    full["sigmas"], full["image_seq_len"] = sigmas, image_seq_len
    plan = READERS[name](full, int(num_steps), compat == "diffusers")
    return plan._replace(sampler=_clip(full, plan.sampler))


def _clip(c: Config, sampler: Sampler) -> Sampler:
    # DDIM alone keeps the network's eps beside a clipped x0; the others step with z and x0.
    consistent = c.name != "DDIM"
    if c["thresholding"]:
        ratio, largest = c["dynamic_thresholding_ratio"], c["sample_max_value"]
        return samplers.clipped(sampler, 1.0, ratio, largest, consistent)
    if c["clip_sample"] and c.name in ("DDIM", "DDPM", "LCM", "HeunDiscrete"):
        return samplers.clipped(sampler, c["clip_sample_range"], consistent=consistent)
    return sampler


def _kind(c: Config) -> AnyKind:
    return PREDICTIONS[c["prediction_type"]]  # type: ignore[return-value]


def _table(c: Config) -> DiscreteBetas:
    own = c["trained_betas"]
    return DiscreteBetas(
        c["beta_schedule"],
        c["beta_start"],
        c["beta_end"],
        c.steps,
        zero_snr=c["rescale_betas_zero_snr"],
        table=None if own is None else tuple(float(beta) for beta in own),
    )


def _ratios(table: DiscreteBetas) -> np.ndarray:
    """sigma / alpha at the table's N steps; finite at zero terminal SNR."""
    squares = np.exp(2.0 * table.log_alphas()[1:])
    if table.zero_snr:
        squares[-1] = ALMOST_ZERO
    return np.sqrt((1.0 - squares) / squares)


def _indices(
    c: Config, n: int, compat: bool, *, whole: bool, beyond: bool = False, last: int | None = None
) -> np.ndarray:
    """Descending table indices of n steps. whole: rounded; beyond: of n + 1, without the last; last: the table's length."""
    total, spacing = c.steps, c["timestep_spacing"]
    last = total if last is None else last
    points = n + 1 if beyond else n
    if spacing == "linspace":
        index = np.linspace(0, last - 1, points)
        index = (np.round(index) if whole else index)[::-1][:n]
    elif spacing == "leading":
        index = (np.arange(points) * (last // points))[::-1][:n] + float(c["steps_offset"])
    else:
        index = np.round(last - np.arange(math.ceil(last * n / total - 1e-9)) * (total / n)) - 1.0
    if index.max() > total - 1 and compat and whole:
        raise InputError(
            f"steps_offset: {c['steps_offset']} with {n} steps asks diffusers for step {int(index.max())} of {total}"
        )
    return np.minimum(index, total - 1)


class Levels(NamedTuple):
    """Noise levels of a grid: sigma / alpha [n + 1], the last one where it ends; table indices [n], network's times [n]."""

    sigmas: np.ndarray
    index: np.ndarray
    timesteps: np.ndarray
    plain: bool


def _to_index(sigmas: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(ratios), np.arange(len(ratios)))


def _spread(style: str, high: float, low: float, n: int) -> np.ndarray:
    ramp = np.linspace(0.0, 1.0, n)
    if style == "karras":
        return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if style == "beta":
        from scipy.special import betaincinv  # a dependency of JAX; slow to import

        return low + betaincinv(0.6, 0.6, 1.0 - ramp) * (high - low)
    return np.exp(np.linspace(math.log(high), math.log(low), n))


def _levels(c: Config, n: int, compat: bool, table: DiscreteBetas) -> Levels:
    """The levels of all schedulers on a table of betas that work in sigma."""
    ratios = _ratios(table)
    dpm = c.name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
    style = c.sigma_style() or ("lu" if c["use_lu_lambdas"] and c.name == "DPMSolverMultistep" else None)
    if dpm:
        clipped = int(np.searchsorted(-np.log(ratios)[::-1], c["lambda_min_clipped"]))
        single = c.name == "DPMSolverSinglestep"
        spaced = c if not single else Config({**c, "timestep_spacing": "linspace", "_class_name": c.name})
        index = _indices(
            spaced, n, compat, whole=True, beyond=spaced["timestep_spacing"] != "trailing", last=c.steps - clipped
        )
        high, low = ratios[-1], ratios[0]
    else:
        index = _indices(c, n, compat, whole=False)
        levels = np.interp(index, np.arange(c.steps), ratios)
        high, low = levels[0], levels[-1]
    if c["sigma_min"] is not None and not dpm:
        low = c["sigma_min"]
    if c["sigma_max"] is not None and not dpm:
        high = c["sigma_max"]
    n = len(index)
    if style is None:
        sigmas, timesteps = np.interp(index, np.arange(c.steps), ratios), index
    else:
        sigmas = _spread(style, high, low, n)
        index = timesteps = _to_index(sigmas, ratios)
        rounded = {"DPMSolverMultistep": ("karras", "lu"), "HeunDiscrete": (), "LMSDiscrete": (), "EulerDiscrete": ()}
        smooth = c.name == "DPMSolverMultistep" and c["beta_schedule"] == "squaredcos_cap_v2"
        if style in rounded.get(c.name, ("karras",)) and not smooth:
            timesteps = np.round(timesteps)
        if dpm:
            timesteps = np.trunc(timesteps + 1e-12)
    end = 0.0 if c["final_sigmas_type"] == "zero" else ratios[0]
    if c.name == "DEISMultistep":
        end = ratios[0]
        if style is not None:
            end = sigmas[-1]
    elif c.name not in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "EulerDiscrete"):
        end = 0.0
    elif c.name == "UniPCMultistep" and style is not None and end > 0:
        end = sigmas[-1]
    return Levels(np.append(sigmas, end), index, timesteps, style is None)


def _on_table(
    c: Config, n: int, compat: bool, table: DiscreteBetas, middles: bool = False
) -> tuple[Schedule, Array, Levels]:
    """The schedule and the grid of a scheduler that works in sigma. middles: KDPM2's, between the levels, too."""
    levels = _levels(c, n, compat, table)
    total = c.steps
    tail = 0.0 if levels.sigmas[-1] == 0 else (_to_index(levels.sigmas[-1:], _ratios(table))[0] + 1.0) / total
    if not compat:
        if levels.plain:
            times = (levels.index + 1.0) / total
        else:
            times = np.asarray(table.time(jnp.asarray(-2.0 * np.log(levels.sigmas[:-1]))))
        return table, jnp.asarray(np.append(times, min(tail, times[-1]))), levels
    times = np.append((levels.index + 1.0) / total, tail)
    sigmas, timesteps = levels.sigmas, np.append(levels.timesteps, tail * total - 1.0)
    if middles:
        between = np.exp(0.5 * (np.log(sigmas[:-2]) + np.log(sigmas[1:-1])))
        index = _to_index(between, _ratios(table))
        knots = np.append(times, (index + 1.0) / total), np.append(sigmas, between), np.append(timesteps, index)
    else:
        knots = times, sigmas, timesteps
    return _knots(*knots), jnp.asarray(times), levels


def _knots(times: np.ndarray, sigmas: np.ndarray, timesteps: np.ndarray, flow: bool = False) -> Knots:
    _, place = np.unique(times, return_index=True)
    alphas = 1.0 - sigmas if flow else 1.0 / np.sqrt(sigmas**2 + 1.0)
    values = (times, alphas, sigmas if flow else sigmas * alphas, timesteps)
    return Knots(*(jnp.asarray(np.asarray(value)[place]) for value in values))


def _scaled(scale: float) -> Callable[[Array], Array]:
    return lambda noise: scale * noise


def _in_sigma(make: Callable[[Config], Sampler], middles: bool = False) -> Callable[[Config, int, bool], SamplingPlan]:
    """Euler, Heun, KDPM2, LMS: samples in units of z / alpha, starting at sigma_max, or for leading at its root of + 1."""

    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["timestep_type"] == "continuous" and c["prediction_type"] == "v_prediction":
            return _continuous(c, n, make(c))
        if c["interpolation_type"] != "linear":
            raise InputError(f"interpolation_type: {c['interpolation_type']!r} is not 'linear'")
        schedule, grid, levels = _on_table(c, n, compat, _table(c), middles)
        top = levels.sigmas[0]
        start = 1.0 if c["timestep_spacing"] == "leading" else top / math.sqrt(top**2 + 1.0)
        return SamplingPlan(schedule, _kind(c), make(c), grid, _scaled(start))

    return read


def _continuous(c: Config, n: int, sampler: Sampler) -> SamplingPlan:
    """v of Euler with timesteps log(sigma) / 4, as in Stable Video Diffusion: EDM's own with sigma_data = 1."""
    levels = _levels(c, n, False, _table(c))
    schedule = EDM(float(levels.sigmas[-2]), float(levels.sigmas[0]))
    final = 0.0 if levels.sigmas[-1] == 0 else None
    sigmas = levels.sigmas[:-1] if final == 0.0 else levels.sigmas
    start = levels.sigmas[0] if c["timestep_spacing"] != "leading" else math.hypot(levels.sigmas[0], 1.0)
    grid = grids.from_sigmas(schedule, sigmas, final)
    return SamplingPlan(schedule, Preconditioning(1.0, negated=True), sampler, grid, _scaled(float(start)))


def _multistep(make: Callable[[Config, bool], Sampler]) -> Callable[[Config, int, bool], SamplingPlan]:
    """DPM-Solver, UniPC, DEIS: samples are z, on a table or a flow."""

    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["algorithm_type"] == "sde-dpmsolver" or c["solver_p"] is not None:
            raise InputError(f"algorithm_type, solver_p: {c['algorithm_type']!r}, {c['solver_p']!r} are not supported")
        flow = c["use_flow_sigmas"]
        if flow != (c["prediction_type"] == "flow_prediction"):
            raise InputError(f"prediction_type: {c['prediction_type']!r} does not go with use_flow_sigmas: {flow}")
        if flow:
            schedule, grid = _flow_levels(c, n, compat)
        else:
            schedule, grid, _ = _on_table(c, n, compat, _table(c))
        return SamplingPlan(schedule, _kind(c), make(c, compat), grid, _scaled(1.0))

    return read


def _shift_of(c: Config, name: str) -> float:
    if not c["use_dynamic_shifting"]:
        return c[name]
    if c["image_seq_len"] is None:
        raise InputError("image_seq_len: None, but the config has use_dynamic_shifting, which needs the image's tokens")
    ends = c["base_image_seq_len"], c["max_image_seq_len"], c["base_shift"], c["max_shift"]
    return schedules.resolution_shift(c["image_seq_len"], *ends, c["time_shift_type"] == "exponential")


def _stretch(sigmas: np.ndarray, terminal: float | None) -> np.ndarray:
    return sigmas if not terminal else 1.0 - (1.0 - sigmas) * (1.0 - terminal) / (1.0 - sigmas[-1])


def _flow_levels(c: Config, n: int, compat: bool) -> tuple[Schedule, Array]:
    s = _shift_of(c, "flow_shift")
    sigmas = (
        np.linspace(1.0, 1.0 / c.steps, n + 1)[:-1]
        if c.name == "UniPCMultistep"
        else 1.0 - np.linspace(1.0, 1.0 / c.steps, n + 1)[::-1][:-1]
    )
    sigmas = _stretch(s * sigmas / (1.0 + (s - 1.0) * sigmas), c["shift_terminal"])
    if compat and abs(sigmas[0] - 1.0) < 1e-6:
        sigmas[0] -= 1e-6
    end = 0.0 if c["final_sigmas_type"] == "zero" else sigmas[-1]
    if compat and c.name == "DEISMultistep":
        end = sigmas[-1]
    levels = np.append(sigmas, end)
    if not compat:
        return RectifiedFlow(float(c.steps)), jnp.asarray(levels)
    return _knots(levels, levels, np.trunc(levels * c.steps + 1e-9), flow=True), jnp.asarray(levels)


def _flow_match(make: Callable[[Config], Sampler]) -> Callable[[Config, int, bool], SamplingPlan]:
    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["invert_sigmas"]:
            raise InputError("invert_sigmas: True is not supported")
        s, total = _shift_of(c, "shift"), c.steps
        sigmas = np.linspace(1.0, 1.0 / total, n)
        if c["sigmas"] is not None:
            sigmas = np.asarray(c["sigmas"], np.float64)
        elif compat and not c["use_dynamic_shifting"]:
            low = s / total / (1.0 + (s - 1.0) / total)
            sigmas = np.linspace(1.0, low, n)
        sigmas = s * sigmas / (1.0 + (s - 1.0) * sigmas)
        sigmas = _stretch(sigmas, c["shift_terminal"])
        style = c.sigma_style()
        if style:
            sigmas = _spread(style, sigmas[0], sigmas[-1], n)
        grid = jnp.asarray(np.append(sigmas, 0.0))
        return SamplingPlan(RectifiedFlow(float(total)), "flow", make(c), grid, _scaled(1.0))

    return read


def _edm(make: Callable[[Config, bool], Sampler]) -> Callable[[Config, int, bool], SamplingPlan]:
    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        schedule = EDM(c["sigma_min"], c["sigma_max"], c["rho"])
        grid = {"karras": grids.karras, "exponential": grids.exponential}.get(c["sigma_schedule"])
        if grid is None:
            raise InputError(f"sigma_schedule: {c['sigma_schedule']!r} is not one of karras, exponential")
        keywords = {"rho": c["rho"]} if c["sigma_schedule"] == "karras" else {}
        times = grid(schedule, n, final=None, **keywords)
        end = 0.0 if c["final_sigmas_type"] == "zero" else times[-1]
        kind = Preconditioning(c["sigma_data"], negated=c["prediction_type"] == "v_prediction")
        times = jnp.append(times, jnp.asarray(end, times.dtype))
        return SamplingPlan(schedule, kind, make(c, compat), times, _scaled(math.hypot(c["sigma_max"], 1.0)))

    return read


def _targets(c: Config, index: np.ndarray, compat: bool) -> tuple[np.ndarray, float]:
    """Where each step from a table index goes, as times, and the last time: 0, or the table's first step."""
    end = 1.0 / c.steps if compat and not c["set_alpha_to_one"] else 0.0
    return np.where(index < 0, end, (index + 1.0) / c.steps), end


def _ddim(c: Config, n: int, compat: bool) -> SamplingPlan:
    index = _indices(c, n, compat, whole=True)
    targets, end = _targets(c, index - c.steps // n, compat)
    sampler = samplers.ddim(c["eta"] or 0.0)
    if compat:
        sampler = samplers.retargeted(sampler, targets)
    return SamplingPlan(_table(c), _kind(c), sampler, jnp.asarray(np.append((index + 1) / c.steps, end)), _scaled(1.0))


def _ddpm(c: Config, n: int, compat: bool) -> SamplingPlan:
    index = _indices(c, n, compat, whole=True)
    variance = {"fixed_small": "small", "fixed_large": "large", "learned": "learned"}
    kind = variance[c["variance_type"].removesuffix("_log").removesuffix("_range")]
    grid = jnp.asarray(np.append((index + 1) / c.steps, 0.0))
    return SamplingPlan(_table(c), _kind(c), samplers.ddpm(kind), grid, _scaled(1.0))  # type: ignore[arg-type]


def _pndm(c: Config, n: int, compat: bool) -> SamplingPlan:
    index = _indices(c, n, compat, whole=True)
    stride, warmup = c.steps // n, "heun" if c["skip_prk_steps"] else "runge_kutta"
    if warmup == "runge_kutta" and n < 4:
        raise InputError(f"num_steps: {n} is fewer than the 4 that PNDM needs without skip_prk_steps")
    _, end = _targets(c, index, compat)
    form = "v" if compat and c["prediction_type"] == "v_prediction" else "eps"
    if not compat:
        grid = samplers.pndm_grid(np.append((index + 1) / c.steps, end), warmup)  # type: ignore[arg-type]
        return SamplingPlan(_table(c), _kind(c), samplers.pndm(warmup), grid, _scaled(1.0))  # type: ignore[arg-type]
    # Each evaluation's own index, that of the sample it moves, and that of where it goes.
    if warmup == "heun":
        own = np.concatenate([index[:2], index[1:]])
        base, goal = own.copy(), own - stride
        if n > 1:
            base[1], goal[1] = own[1] + stride, own[1]
    else:
        half, top = stride // 2, index[:4]
        own, base, goal = [], [], []
        for a, b in zip(top[:3], top[1:], strict=True):
            own += [a, b + half, b + half, b]
            base += [a] * 4
            goal += [a - half, b + half, b + half - half, b]
        own, base, goal = (
            np.array([*part, *rest]) for part, rest in ((own, index[3:]), (base, index[3:]), (goal, index[3:] - stride))
        )
    targets, end = _targets(c, goal, compat)
    bases, _ = _targets(c, base, compat)
    sampler = samplers.retargeted(samplers.pndm(warmup, form, bases), targets)  # type: ignore[arg-type]
    return SamplingPlan(_table(c), _kind(c), sampler, jnp.asarray(np.append((own + 1) / c.steps, end)), _scaled(1.0))


def _consistency(
    make: Callable[[Config], Sampler], end: Callable[[Config], float]
) -> Callable[[Config, int, bool], SamplingPlan]:
    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        trained = c["original_inference_steps"]
        if n > trained:
            raise InputError(f"num_steps: {n} is more than original_inference_steps: {trained}")
        table = (np.arange(1, trained + 1) * (c.steps // trained) - 1)[::-1]
        index = table[np.floor(np.linspace(0, trained, n, endpoint=False)).astype(int)]
        grid = jnp.asarray(np.append((index + 1) / c.steps, end(c)))
        return SamplingPlan(_table(c), _kind(c), make(c), grid, _scaled(1.0))

    return read


def _dpm(c: Config, compat: bool) -> Sampler:
    heun = c["solver_type"] == "heun"
    second = "exact" if heun else "midpoint"
    final = c["final_sigmas_type"] == "zero" or c["euler_at_final"]
    rule: Any = (second, "published" if compat else "exact")
    return samplers.dpm_solver(c["solver_order"], c["algorithm_type"], rule, c["lower_order_final"], final)


def _dpm_single(c: Config, compat: bool) -> Sampler:
    form = "eps" if c["algorithm_type"] == "dpmsolver" else "x0"
    rule = "exact" if c["solver_type"] == "heun" else "midpoint"
    eta = 1.0 if c["algorithm_type"].startswith("sde") else 0.0
    clean = c["final_sigmas_type"] == "zero"
    return samplers.dpm_solver_single(c["solver_order"], form, rule, eta, clean or c["lower_order_final"], clean)


def _unipc(c: Config, compat: bool) -> Sampler:
    variant = c["solver_type"] if c["solver_type"] in ("bh1", "bh2") else "bh2"
    form = "x0" if c["predict_x0"] else "eps"
    skipped = tuple(c["disable_corrector"])
    return samplers.unipc(c["solver_order"], variant, form, c["lower_order_final"], skip_corrector=skipped)


READERS: dict[str, Callable[[Config, int, bool], SamplingPlan]] = {
    "DDIM": _ddim,
    "DDPM": _ddpm,
    "PNDM": _pndm,
    "LMSDiscrete": _in_sigma(lambda c: samplers.lms()),
    "EulerDiscrete": _in_sigma(lambda c: samplers.ddim()),
    "EulerAncestralDiscrete": _in_sigma(lambda c: samplers.euler_ancestral()),
    "HeunDiscrete": _in_sigma(lambda c: samplers.heun("rho")),
    "KDPM2Discrete": _in_sigma(lambda c: samplers.dpm_2(), middles=True),
    "DPMSolverMultistep": _multistep(_dpm),
    "DPMSolverSinglestep": _multistep(_dpm_single),
    "UniPCMultistep": _multistep(_unipc),
    "DEISMultistep": _multistep(lambda c, compat: samplers.deis(c["solver_order"], c["lower_order_final"])),
    "EDMEuler": _edm(lambda c, compat: samplers.ddim()),
    "EDMDPMSolverMultistep": _edm(_dpm),
    "FlowMatchEulerDiscrete": _flow_match(
        lambda c: samplers.lcm(sigma_data=0.0) if c["stochastic_sampling"] else samplers.euler("t")
    ),
    "FlowMatchHeunDiscrete": _flow_match(lambda c: samplers.heun("t")),
    "LCM": _consistency(lambda c: samplers.lcm(c["timestep_scaling"]), lambda c: 0.0),
    "TCD": _consistency(
        lambda c: samplers.tcd(0.3 if c["eta"] is None else c["eta"], c.steps), lambda c: 1.0 / c.steps
    ),
}
