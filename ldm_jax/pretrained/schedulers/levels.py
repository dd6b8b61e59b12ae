"""The numbers of diffusers' schedulers: configs with their defaults, timesteps, noise levels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.diffusion.schedules import DiscreteBetas, Knots, Schedule
from ldm_jax.errors import InputError

PREDICTIONS: dict[str, str] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}

ALMOST_ZERO = 2.0**-24

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
    "DPMSolverSDE": {"beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverSinglestep": {"lower_order_final": False},
    "EDMEuler": {"sigma_min": 0.002, "sigma_max": 80.0},
    "EDMDPMSolverMultistep": {"sigma_min": 0.002, "sigma_max": 80.0},
}


class Config(dict):
    """A scheduler's config with the class's defaults filled in; a missing or null entry is the default."""

    def __init__(self, config: dict[str, Any]):
        name = str(config.get("_class_name"))
        super().__init__(DEFAULTS | {k: v for k, v in config.items() if v is not None})
        self.name = name
        self.steps = self["num_train_timesteps"]

    def sigma_style(self) -> str | None:
        """Which of diffusers' spacings of sigmas is asked for; InputError for two at once."""
        styles = [s for s in ("karras", "exponential", "beta") if self[f"use_{s}_sigmas"]]
        if len(styles) > 1:
            raise InputError(f"use_{styles[1]}_sigmas: True, with use_{styles[0]}_sigmas: only one of them is accepted")
        return styles[0] if styles else None


class Levels(NamedTuple):
    """A grid's noise levels: sigma / alpha [n + 1], the end included; table indices [n], the network's times [n]."""

    sigmas: np.ndarray
    index: np.ndarray
    timesteps: np.ndarray
    plain: bool


def table_of(c: Config) -> DiscreteBetas:
    """The table of betas that a scheduler's config describes."""
    own = c["trained_betas"]
    return DiscreteBetas(
        c["beta_schedule"],
        c["beta_start"],
        c["beta_end"],
        c.steps,
        zero_snr=c["rescale_betas_zero_snr"],
        table=None if own is None else tuple(float(beta) for beta in own),
    )


def ratios_of(table: DiscreteBetas) -> np.ndarray:
    """sigma / alpha at the table's N steps; finite at zero terminal SNR."""
    squares = np.exp(2.0 * table.log_alphas()[1:])
    if table.zero_snr:
        squares[-1] = ALMOST_ZERO
    return np.sqrt((1.0 - squares) / squares)


def indices(
    c: Config, n: int, compat: bool, *, whole: bool, beyond: bool = False, last: int | None = None
) -> np.ndarray:
    """Descending indices of n steps. whole: rounded; beyond: of n + 1 without the last; last: the table's length."""
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
    if not compat:
        index = index - max(index[0] - (total - 1), 0.0)
        if points == 1 and spacing != "trailing":
            # diffusers starts its only step at the clean end, and the noise would come back as the sample.
            index = np.array([last - 1.0])
    index = np.minimum(index, total - 1)
    if np.any(np.diff(index) >= 0):
        raise InputError(
            f"num_steps: {n} with timestep_spacing {spacing} visits steps of the {total} in training more than once; "
            "take fewer"
        )
    return index


def to_index(sigmas: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Fractional places of sigmas in a rising table of them [n], by their logarithms."""
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(ratios), np.arange(len(ratios)))


def spread(style: str, high: float, low: float, n: int) -> np.ndarray:
    """n sigmas from high to low [n] in one of diffusers' styles."""
    ramp = np.linspace(0.0, 1.0, n)
    if style == "karras":
        return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if style == "beta":
        from scipy.special import betaincinv  # a dependency of JAX; slow to import

        return low + betaincinv(0.6, 0.6, 1.0 - ramp) * (high - low)
    return np.exp(np.linspace(math.log(high), math.log(low), n))


def levels_of(c: Config, n: int, compat: bool, table: DiscreteBetas) -> Levels:
    """The levels of all schedulers on a table of betas that work in sigma."""
    levels = _levels_of(c, n, compat, table)
    last, end = levels.sigmas[-2:]
    if compat or end == 0 or last > end * (1.0 + 1e-6):
        return levels
    # The last of n levels is the end itself: n steps to it need one more.
    more = _levels_of(c, n + 1, compat, table)
    return Levels(more.sigmas[:-1], more.index[:-1], more.timesteps[:-1], more.plain)


def _levels_of(c: Config, n: int, compat: bool, table: DiscreteBetas) -> Levels:
    ratios = ratios_of(table)
    dpm = c.name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep")
    style = c.sigma_style() or ("lu" if c["use_lu_lambdas"] and c.name == "DPMSolverMultistep" else None)
    if dpm:
        clipped = int(np.searchsorted(-np.log(ratios)[::-1], c["lambda_min_clipped"]))
        single = c.name == "DPMSolverSinglestep"
        spaced = c if not single else Config({**c, "timestep_spacing": "linspace", "_class_name": c.name})
        index = indices(
            spaced, n, compat, whole=True, beyond=spaced["timestep_spacing"] != "trailing", last=c.steps - clipped
        )
        high, low = ratios[-1], ratios[0]
    else:
        index = indices(c, n, compat, whole=False)
        levels = np.interp(index, np.arange(c.steps), ratios)
        high, low = levels[0], levels[-1]
    if c["sigma_min"] is not None and not dpm:
        low = c["sigma_min"]
    if c["sigma_max"] is not None and not dpm:
        high = c["sigma_max"]
    n = len(index)
    if c["interpolation_type"] == "log_linear" and c.name == "EulerDiscrete":
        # n + 1 levels of the whole table for n timesteps that know nothing of them.
        high, low = ratios[-1], ratios[0]
        if style is None:
            return Levels(np.exp(np.linspace(math.log(high), math.log(low), n + 1)), index, index, False)
    if style is None:
        sigmas, timesteps = np.interp(index, np.arange(c.steps), ratios), index
    else:
        sigmas = spread(style, high, low, n)
        index = timesteps = to_index(sigmas, ratios)
        rounded = {"DPMSolverMultistep": ("karras", "lu")}
        rounded |= dict.fromkeys(("HeunDiscrete", "LMSDiscrete", "EulerDiscrete", "DPMSolverSDE"), ())
        smooth = c.name == "DPMSolverMultistep" and c["beta_schedule"] == "squaredcos_cap_v2"
        if style in rounded.get(c.name, ("karras",)) and not smooth:
            timesteps = np.round(timesteps)
        if dpm:
            timesteps = np.trunc(timesteps + 1e-12)
    end = 0.0 if c["final_sigmas_type"] == "zero" else ratios[0]
    if c.name == "DEISMultistep":
        end = ratios[0] if compat else 0.0
        if style is not None and compat:
            end = sigmas[-1]
    elif c.name not in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "EulerDiscrete"):
        end = 0.0
    elif c.name == "UniPCMultistep" and style is not None and end > 0:
        end = sigmas[-1]
    return Levels(np.append(sigmas, end), index, timesteps, style is None)


def knots_of(times: np.ndarray, sigmas: np.ndarray, timesteps: np.ndarray, flow: bool = False) -> Knots:
    """A schedule through these times, whose sigmas are the flow's or over alpha; of equal times the first counts."""
    _, place = np.unique(times, return_index=True)
    alphas = 1.0 - sigmas if flow else 1.0 / np.sqrt(sigmas**2 + 1.0)
    values = (times, alphas, sigmas if flow else sigmas * alphas, timesteps)
    return Knots(*(jnp.asarray(np.asarray(value)[place]) for value in values))


Stages = Literal["between", "next"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Staged(Knots):
    """Knots between which a sampler has stages, at times stages [m], ascending.

    `time` looks among those alone, for a stage may have the level of a grid's time, but another timestep.
    """

    stages: Array

    def time(self, logsnr: Array) -> Array:
        levels = jnp.log(self.sigma(self.stages) / self.alpha(self.stages))
        return jnp.interp(-0.5 * logsnr, levels, self.stages)


def on_table(
    c: Config, n: int, compat: bool, table: DiscreteBetas, stages: Stages | None = None
) -> tuple[Schedule, Array, Levels]:
    """The schedule and the grid of a scheduler that works in sigma.

    stages: the level of each step's second stage, halfway between two levels in log sigma, or at the next itself, which
    is half the way to sigma_down, for the ancestral DPM-Solver-2.
    """
    levels = levels_of(c, n, compat, table)
    total = c.steps
    tail = 0.0 if levels.sigmas[-1] == 0 else (to_index(levels.sigmas[-1:], ratios_of(table))[0] + 1.0) / total
    if not compat:
        if levels.plain:
            times = (levels.index + 1.0) / total
        else:
            times = np.asarray(table.time(jnp.asarray(-2.0 * np.log(levels.sigmas[:-1]))))
        return table, jnp.asarray(np.append(times, min(tail, times[-1]))), levels
    times = np.append((levels.index + 1.0) / total, tail)
    sigmas, timesteps = levels.sigmas, np.append(levels.timesteps, tail * total - 1.0)
    if times[-1] >= times[-2] and sigmas[-1] < sigmas[-2]:
        times[-1] = 0.5 * times[-2]
    if stages is None or n == 1:
        return knots_of(times, sigmas, timesteps), jnp.asarray(times), levels
    level = sigmas[1:-1] if stages == "next" else np.exp(0.5 * (np.log(sigmas[:-2]) + np.log(sigmas[1:-1])))
    inner = 0.5 * (times[:-2] + times[1:-1])
    index = to_index(level, ratios_of(table))
    knots = knots_of(np.append(times, inner), np.append(sigmas, level), np.append(timesteps, index))
    parts = (knots.times, knots.alphas, knots.sigmas, knots.timesteps)
    return Staged(*parts, jnp.asarray(inner[::-1].copy())), jnp.asarray(times), levels
