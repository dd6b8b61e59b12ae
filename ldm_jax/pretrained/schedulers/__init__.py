"""diffusers' scheduler_config.json, read as a schedule, a prediction, a sampler and a grid; and written.

With `compat="diffusers"` a plan reproduces that library's scheduler to rounding. By default it does what the scheduler
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
    log_linear        Euler's levels of that interpolation are given the timesteps of the spacing, which are others'
    unfinished        DEIS with Karras, exponential, beta or flow sigmas ends with a step of width 0, at a sigma > 0; so
                      do the others of these with final_sigmas_type sigma_min, and EDM's. By default n steps are n
    one step          linspace and leading spacing of one step start it at the clean end of the table; FlowMatch with
                      shift_terminal divides 0 by 0 (which is 1 here in both modes)
    1e-6              UniPC starts a flow at sigma = 1 - 1e-6, as it divides by alpha

One more of diffusers' differences lies in a network and not here: DiT's timestep embedding divides by 127 (half the
channels less one) where the original divides by 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldm_jax.diffusion import grids, samplers
from ldm_jax.diffusion.samplers import Sampler
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers.levels import OWN, PREDICTIONS, SPACINGS, Config
from ldm_jax.pretrained.schedulers.plan import SamplingPlan
from ldm_jax.pretrained.schedulers.readers import READERS
from ldm_jax.pretrained.schedulers.writer import to_diffusers_scheduler

__all__ = ["SamplingPlan", "from_diffusers_scheduler", "to_diffusers_scheduler"]


def from_diffusers_scheduler(
    config: dict[str, Any],
    num_steps: int,
    compat: str | None = None,
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
    plan = plan._replace(sampler=_clip(full, plan.sampler))
    if compat == "diffusers":
        # Its zero-width steps ("unfinished") are among what is to be reproduced.
        return plan._replace(sampler=plan.sampler._replace(revisits=True))
    grids.check(plan.grid, repeats=plan.sampler.revisits)
    return plan


def _clip(c: Config, sampler: Sampler) -> Sampler:
    # DDIM alone keeps the network's eps beside a clipped x0; the others step with z and x0.
    consistent = c.name != "DDIM"
    if c["thresholding"]:
        ratio, largest = c["dynamic_thresholding_ratio"], c["sample_max_value"]
        return samplers.clipped(sampler, 1.0, ratio, largest, consistent)
    if c["clip_sample"] and c.name in ("DDIM", "DDPM", "LCM", "HeunDiscrete"):
        return samplers.clipped(sampler, c["clip_sample_range"], consistent=consistent)
    return sampler
