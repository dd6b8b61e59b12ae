"""Our schedules as scheduler_config.json for diffusers."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.prediction import AnyKind, Preconditioning
from ldm_jax.diffusion.schedules import EDM, DiscreteBetas, RectifiedFlow, Schedule, Shifted
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers.levels import PREDICTIONS

KNOWN_TABLES = ("linear", "scaled_linear", "squaredcos_cap_v2")
ON_TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIM", {"clip_sample": False, "set_alpha_to_one": True}),
    "ddpm": ("DDPM", {"clip_sample": False}),
    "euler": ("EulerDiscrete", {}),
    "euler_ancestral": ("EulerAncestralDiscrete", {}),
    "heun": ("HeunDiscrete", {}),
    "dpm_2": ("KDPM2Discrete", {}),
    "dpm_2_ancestral": ("KDPM2AncestralDiscrete", {}),
    "dpmpp_sde": ("DPMSolverSDE", {}),
    "lms": ("LMSDiscrete", {}),
    "plms": ("PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True}),
    "dpmpp_2m": ("DPMSolverMultistep", {"solver_order": 2}),
    "dpmpp_3m": ("DPMSolverMultistep", {"solver_order": 3, "solver_type": "heun"}),
    "dpmpp_2m_sde": ("DPMSolverMultistep", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "dpm_solver": ("DPMSolverSinglestep", {"solver_order": 3, "solver_type": "heun", "lower_order_final": True}),
    "unipc": ("UniPCMultistep", {"solver_order": 3}),
    "deis": ("DEISMultistep", {"solver_order": 3}),
    "lcm": ("LCM", {}),
    "tcd": ("TCD", {}),
}
ON_FLOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("FlowMatchEulerDiscrete", {}),
    "euler": ("FlowMatchEulerDiscrete", {}),
    "heun": ("FlowMatchHeunDiscrete", {}),
}
ON_FLOW_SIGMAS = ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpm_solver", "unipc", "deis")
ON_EDM: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("EDMEuler", {}),
    "euler": ("EDMEuler", {}),
    "dpmpp_2m": ("EDMDPMSolverMultistep", {"solver_order": 2}),
    "dpmpp_3m": ("EDMDPMSolverMultistep", {"solver_order": 3, "solver_type": "heun"}),
}


def to_diffusers_scheduler(
    schedule: Schedule, prediction: AnyKind = "eps", sampler: str = "ddim", spacing: str = "trailing"
) -> dict[str, Any]:
    """The scheduler_config.json with which diffusers samples a model trained on `schedule`.

    sampler: a name of `samplers.SAMPLERS` that diffusers has, too. spacing: linspace, leading or trailing, for tables
    of betas. Continuous variance-preserving schedules (Cosine, VP) are written as a table of 1000 betas, whose last is
    held at 0.999. `from_diffusers_scheduler` reads the result back to the same schedule and prediction.
    """
    rows, own = _rows(schedule, prediction)
    if sampler not in rows:
        raise InputError(f"sampler: {sampler!r} is not one of {', '.join(rows)}, which diffusers has for this schedule")
    name, options = rows[sampler]
    config = {"_class_name": name + "Scheduler", **own, **options}
    if rows is ON_TABLES and name not in ("DPMSolverSinglestep", "LCM", "TCD"):
        config["timestep_spacing"] = spacing
    return config


def _rows(schedule: Schedule, prediction: AnyKind) -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[str, Any]]:
    """The samplers that diffusers has for a schedule, and the schedule's part of a config."""
    if isinstance(schedule, EDM):
        if not isinstance(prediction, Preconditioning):
            raise InputError(f"prediction: {prediction!r} on EDM is not a Preconditioning")
        kind = "v_prediction" if prediction.negated else "epsilon"
        levels = {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max, "rho": schedule.rho}
        return ON_EDM, levels | {"sigma_data": prediction.sigma_data, "prediction_type": kind}
    base, s = (schedule.base, schedule.s) if isinstance(schedule, Shifted) else (schedule, 1.0)
    if isinstance(base, RectifiedFlow):
        if prediction != "flow":
            raise InputError(f"prediction: {prediction!r} on RectifiedFlow is not 'flow'")
        solvers = {
            name: (cls, options | {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": s})
            for name, (cls, options) in ON_TABLES.items()
            if name in ON_FLOW_SIGMAS
        }
        euler = {name: (cls, options | {"shift": s}) for name, (cls, options) in ON_FLOWS.items()}
        return euler | solvers, {"num_train_timesteps": int(base.scale)}
    names: dict[Any, str] = {ours: theirs for theirs, ours in PREDICTIONS.items() if ours != "flow"}
    if prediction not in names:
        raise InputError(f"prediction: {prediction!r} is not one of {', '.join(names)}, which diffusers has on betas")
    if isinstance(schedule, DiscreteBetas):
        table: dict[str, Any] = {"num_train_timesteps": schedule.size, "rescale_betas_zero_snr": schedule.zero_snr}
        if schedule.table is not None:
            table["trained_betas"] = list(schedule.table)
        elif schedule.kind in KNOWN_TABLES:
            table |= {"beta_schedule": schedule.kind, "beta_start": schedule.start, "beta_end": schedule.end}
        else:
            logs = schedule.log_alphas() if not schedule.zero_snr else _plain_logs(schedule)
            table["trained_betas"] = (-np.expm1(2.0 * np.diff(logs))).tolist()
    else:
        t = jnp.linspace(0.0, 1.0, 1001)
        alpha, sigma = np.asarray(schedule.alpha(t), np.float64), np.asarray(schedule.sigma(t), np.float64)
        if not np.allclose(alpha**2 + sigma**2, 1.0, atol=1e-4):
            raise InputError(f"schedule: {schedule!r} is not variance preserving, which diffusers' betas are")
        betas = np.minimum(1.0 - (alpha[1:] / alpha[:-1]) ** 2, 0.999)
        table = {"num_train_timesteps": 1000, "trained_betas": betas.tolist()}
    return ON_TABLES, table | {"prediction_type": names[prediction]}


def _plain_logs(schedule: DiscreteBetas) -> np.ndarray:
    return dataclasses.replace(schedule, zero_snr=False).log_alphas()
