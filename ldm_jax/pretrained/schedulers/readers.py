"""One reader for each of diffusers' schedulers: (config, steps, compat) -> SamplingPlan."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.diffusion import grids, samplers, schedules
from ldm_jax.diffusion.prediction import AnyKind, Preconditioning
from ldm_jax.diffusion.samplers import Sampler
from ldm_jax.diffusion.schedules import EDM, RectifiedFlow, Schedule
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers.levels import (
    PREDICTIONS,
    Config,
    Stages,
    indices,
    knots_of,
    levels_of,
    on_table,
    spread,
    table_of,
)
from ldm_jax.pretrained.schedulers.plan import SamplingPlan


def _scaled(scale: float) -> Callable[[Array], Array]:
    return lambda noise: scale * noise


def _kind(c: Config) -> AnyKind:
    return PREDICTIONS[c["prediction_type"]]  # type: ignore[return-value]


def _in_sigma(
    make: Callable[[Config], Sampler], stages: Stages | None = None
) -> Callable[[Config, int, bool], SamplingPlan]:
    """Euler, Heun, KDPM2, LMS: samples are z / alpha; the first has sigma_max, or its hypot with 1 for leading."""

    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["timestep_type"] == "continuous" and c["prediction_type"] == "v_prediction":
            return _continuous(c, n, make(c))
        if c["interpolation_type"] not in ("linear", "log_linear"):
            raise InputError(f"interpolation_type: {c['interpolation_type']!r} is not one of linear, log_linear")
        schedule, grid, levels = on_table(c, n, compat, table_of(c), stages)
        top = levels.sigmas[0]
        start = 1.0 if c["timestep_spacing"] == "leading" else top / math.sqrt(top**2 + 1.0)
        return SamplingPlan(schedule, _kind(c), make(c), grid, _scaled(start))

    return read


def _continuous(c: Config, n: int, sampler: Sampler) -> SamplingPlan:
    """v of Euler with timesteps log(sigma) / 4, as in Stable Video Diffusion: EDM's own with sigma_data = 1."""
    levels = levels_of(c, n, False, table_of(c))
    schedule = EDM(float(levels.sigmas[-2]), float(levels.sigmas[0]))
    final = 0.0 if levels.sigmas[-1] == 0 else None
    sigmas = levels.sigmas[:-1] if final == 0.0 else levels.sigmas
    start = levels.sigmas[0] if c["timestep_spacing"] != "leading" else math.hypot(levels.sigmas[0], 1.0)
    grid = grids.from_sigmas(schedule, sigmas, final)
    return SamplingPlan(schedule, Preconditioning(1.0, negated=True), sampler, grid, _scaled(float(start)))


def _multistep(make: Callable[[Config, bool], Sampler]) -> Callable[[Config, int, bool], SamplingPlan]:
    """DPM-Solver, UniPC, DEIS: samples are z, on a table or a flow."""

    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["solver_p"] is not None:
            raise InputError("solver_p: a scheduler in UniPC's place is not supported, only null")
        flow = c["use_flow_sigmas"]
        if flow and c.sigma_style():
            raise InputError(f"use_flow_sigmas: True does not go with use_{c.sigma_style()}_sigmas")
        if compat and c["algorithm_type"] == "sde-dpmsolver++" and c["solver_order"] == 3:
            raise InputError("solver_order: 3 with sde-dpmsolver++ has a wrong sign in diffusers, not reproduced")
        if flow != (c["prediction_type"] == "flow_prediction"):
            raise InputError(f"prediction_type: {c['prediction_type']!r} does not go with use_flow_sigmas: {flow}")
        if flow:
            schedule, grid = _flow_levels(c, n, compat)
        else:
            schedule, grid, _ = on_table(c, n, compat, table_of(c))
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
    return grids.stretched(sigmas, terminal) if terminal else sigmas


def _flow_levels(c: Config, n: int, compat: bool) -> tuple[Schedule, Array]:
    if not compat and c["final_sigmas_type"] != "zero":
        # The last of n levels is the end itself: n steps to it need one more.
        grid = _flow_levels(Config({**c, "final_sigmas_type": "zero", "_class_name": c.name}), n + 1, compat)[1]
        return RectifiedFlow(float(c.steps)), grid[:-1]
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
    return knots_of(levels, levels, np.trunc(levels * c.steps + 1e-9), flow=True), jnp.asarray(levels)


def _flow_match(make: Callable[[Config], Sampler]) -> Callable[[Config, int, bool], SamplingPlan]:
    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        if c["invert_sigmas"]:
            raise InputError("invert_sigmas: True is not supported")
        s, total = _shift_of(c, "shift"), c.steps
        sigmas = np.linspace(1.0, 1.0 / total, n)
        if c["sigmas"] is not None:
            sigmas = np.asarray(c["sigmas"], np.float64)
            if sigmas.shape != (n,) or not (sigmas > 0).all() or not (sigmas <= 1).all():
                raise InputError(f"sigmas: they must be num_steps ({n}) numbers in (0, 1], got {c['sigmas']}")
        elif compat and not c["use_dynamic_shifting"]:
            low = s / total / (1.0 + (s - 1.0) / total)
            sigmas = np.linspace(1.0, low, n)
        sigmas = s * sigmas / (1.0 + (s - 1.0) * sigmas)
        sigmas = _stretch(sigmas, c["shift_terminal"])
        style = c.sigma_style()
        if style:
            sigmas = spread(style, sigmas[0], sigmas[-1], n)
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
        clean = c["final_sigmas_type"] == "zero"
        kind = Preconditioning(c["sigma_data"], negated=c["prediction_type"] == "v_prediction")
        # Without a clean end the last level is the end, which diffusers steps to again.
        times = grid(schedule, n if clean or compat else n + 1, final=None, **keywords)
        if clean or compat:
            times = jnp.append(times, jnp.asarray(0.0 if clean else times[-1], times.dtype))
        return SamplingPlan(schedule, kind, make(c, compat), times, _scaled(math.hypot(c["sigma_max"], 1.0)))

    return read


def _targets(c: Config, index: np.ndarray, compat: bool) -> tuple[np.ndarray, float]:
    """Where each step from a table index goes, as times, and the last time: 0, or the table's first step."""
    end = 1.0 / c.steps if compat and not c["set_alpha_to_one"] else 0.0
    return np.where(index < 0, end, (index + 1.0) / c.steps), end


def _ddim(c: Config, n: int, compat: bool) -> SamplingPlan:
    index = indices(c, n, compat, whole=True)
    targets, end = _targets(c, index - c.steps // n, compat)
    sampler = samplers.ddim(c["eta"] or 0.0)
    if compat:
        sampler = samplers.retargeted(sampler, targets, (index + 1) / c.steps)
    return SamplingPlan(
        table_of(c), _kind(c), sampler, jnp.asarray(np.append((index + 1) / c.steps, end)), _scaled(1.0)
    )


def _ddpm(c: Config, n: int, compat: bool) -> SamplingPlan:
    index = indices(c, n, compat, whole=True)
    variance = {"fixed_small": "small", "fixed_large": "large", "learned": "learned"}
    kind = variance[c["variance_type"].removesuffix("_log").removesuffix("_range")]
    grid = jnp.asarray(np.append((index + 1) / c.steps, 0.0))
    return SamplingPlan(table_of(c), _kind(c), samplers.ddpm(kind), grid, _scaled(1.0))  # type: ignore[arg-type]


def _pndm(c: Config, n: int, compat: bool) -> SamplingPlan:
    stride, warmup = c.steps // n, "heun" if c["skip_prk_steps"] else "runge_kutta"
    if warmup == "runge_kutta" and n < 4:
        raise InputError(f"num_steps: {n} is fewer than the 4 that PNDM needs without skip_prk_steps")
    index = indices(c, n, compat, whole=True)
    _, end = _targets(c, index, compat)
    form = "v" if compat and c["prediction_type"] == "v_prediction" else "eps"
    if not compat:
        grid = samplers.pndm_grid(jnp.asarray(np.append((index + 1) / c.steps, end)), warmup)  # type: ignore[arg-type]
        return SamplingPlan(table_of(c), _kind(c), samplers.pndm(warmup), grid, _scaled(1.0))  # type: ignore[arg-type]
    # Each evaluation's own index, that of the sample it moves, and that of where it goes.
    if warmup == "heun":
        own = np.concatenate([index[:2], index[1:]])
        base, goal = own.copy(), own - stride
        if n > 1:
            base[1], goal[1] = own[1] + stride, own[1]
    else:
        half, top = stride // 2, index[:4]
        own, base, goal = [], [], []
        for a, b in pairwise(top):
            own += [a, b + half, b + half, b]
            base += [a] * 4
            goal += [a - half, b + half, b + half - half, b]
        own, base, goal = (
            np.array([*part, *rest]) for part, rest in ((own, index[3:]), (base, index[3:]), (goal, index[3:] - stride))
        )
    targets, end = _targets(c, goal, compat)
    bases, _ = _targets(c, base, compat)
    sampler = samplers.retargeted(samplers.pndm(warmup, form, bases), targets)  # type: ignore[arg-type]
    return SamplingPlan(table_of(c), _kind(c), sampler, jnp.asarray(np.append((own + 1) / c.steps, end)), _scaled(1.0))


def _consistency(
    make: Callable[[Config], Sampler], end: Callable[[Config], float]
) -> Callable[[Config, int, bool], SamplingPlan]:
    def read(c: Config, n: int, compat: bool) -> SamplingPlan:
        trained = c["original_inference_steps"]
        if n > trained:
            raise InputError(f"num_steps: {n} is more than original_inference_steps: {trained}")
        if trained > c.steps:
            raise InputError(f"original_inference_steps: {trained} must be at most num_train_timesteps, {c.steps}")
        table = (np.arange(1, trained + 1) * (c.steps // trained) - 1)[::-1]
        index = table[np.floor(np.linspace(0, trained, n, endpoint=False)).astype(int)]
        grid = jnp.asarray(np.append((index + 1) / c.steps, end(c)))
        return SamplingPlan(table_of(c), _kind(c), make(c), grid, _scaled(1.0))

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
    "KDPM2Discrete": _in_sigma(lambda c: samplers.dpm_2(), "between"),
    "KDPM2AncestralDiscrete": _in_sigma(lambda c: samplers.dpm_2_ancestral(), "next"),
    "DPMSolverSDE": _in_sigma(lambda c: samplers.dpmpp_sde(), "between"),
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
