"""Makes diffusers_schedulers.npz: trajectories of diffusers' schedulers on a small made-up network.

Run in an environment with PyTorch (CPU), diffusers, scipy and torchsde:

    python tests/reference/make_diffusers_schedulers.py

Every case is run twice: once in float64, by giving the scheduler's module a `torch` and a `np` whose float32 is
float64, so that the algorithm is untouched and only its rounding is; and once as it is, in float32, of which the last
sample is kept. The float64 samples are stored rounded to float32 (6e-8), a sixteenth of the 1e-6 that they are for.
"""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch

OUT = Path(__file__).with_name("diffusers_schedulers.npz")
STEPS = (5, 20, 50)
SPACINGS = ("linspace", "leading", "trailing")
KINDS = ("epsilon", "sample", "v_prediction")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Wide:
    """A module in which float32 is another name for float64."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, "float64" if name == "float32" else name)


def network(x: torch.Tensor, timestep) -> torch.Tensor:
    """The network of the tests, [1, 2, 1, 1] to the same; the tests have it in JAX."""
    mix = torch.tensor([[0.9, -0.5], [0.4, 0.7]], dtype=x.dtype)
    bias = torch.tensor([0.3, -0.6], dtype=x.dtype)
    phase = torch.as_tensor(timestep, dtype=x.dtype) * 0.003
    return (0.7 * torch.tanh(mix @ x.reshape(2) + bias * torch.sin(phase + 1.0))).reshape(x.shape)


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(1000 + index).standard_normal((1, 2, 1, 1))


class GivenNoise:
    """In the place of DPMSolverSDE's Brownian tree: the given noises, one after the other."""

    def __init__(self, sample, *args):
        self.drawn, self.dtype = iter(range(10_000)), sample.dtype

    def __call__(self, sigma, sigma_next):
        return torch.tensor(noise(next(self.drawn)), dtype=self.dtype)


TWO_STAGES = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE", "FlowMatchHeunDiscrete")


def trajectory(config: dict, steps: int, options: dict, wide: bool) -> np.ndarray:
    name = config["_class_name"]
    cls = getattr(diffusers, name)
    module = importlib.import_module(cls.__module__)
    patched = ("torch", "np", "math", "randn_tensor", "BrownianTreeNoiseSampler")
    before = {key: getattr(module, key) for key in patched if hasattr(module, key)}
    dtype = torch.float64 if wide else torch.float32
    drawn = iter(range(10_000))
    if wide:
        module.torch = Wide(torch)
        if "np" in before:
            module.np = Wide(np)
    if "randn_tensor" in before:
        module.randn_tensor = lambda *args, **kwargs: torch.tensor(noise(next(drawn)), dtype=dtype)
    if "BrownianTreeNoiseSampler" in before:
        module.BrownianTreeNoiseSampler = GivenNoise
    torch.set_default_dtype(dtype)
    try:
        scheduler = cls(**{key: value for key, value in config.items() if key != "_class_name"})
        scheduler.set_timesteps(steps, **options)
        if hasattr(scheduler, "set_begin_index"):
            # Without it a scheduler whose first two timesteps are equal starts at the second, and runs out of sigmas.
            scheduler.set_begin_index(0)
        x = torch.tensor(noise(-1), dtype=dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
        seen = []
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(scaled, timestep), timestep, x, return_dict=False)[0]
            seen.append(x.numpy().astype(np.float64).reshape(2))
    finally:
        torch.set_default_dtype(torch.float32)
        for key, value in before.items():
            setattr(module, key, value)
    if name.removesuffix("Scheduler") in TWO_STAGES:
        seen = [*seen[1 : 2 * steps - 1 : 2], seen[-1]]
    return np.stack(seen)


def cases():
    """(config, steps, options of set_timesteps)"""

    def every(name, kinds=KINDS, spacings=SPACINGS, steps=STEPS, options=None, **config):
        for kind in kinds:
            for spacing in spacings:
                for n in steps:
                    own = {"_class_name": name + "Scheduler", **config}
                    if kind is not None:
                        own["prediction_type"] = kind
                    if spacing is not None:
                        own["timestep_spacing"] = spacing
                    yield own, n, options or {}

    def sigmas(name, styles=("karras", "exponential", "beta"), kinds=KINDS, spacings=SPACINGS, **config):
        for style in styles:
            key = "use_lu_lambdas" if style == "lu" else f"use_{style}_sigmas"
            yield from every(name, kinds, spacings, **{key: True}, **config)

    def rules():
        for order in (1, 2, 3):
            for solver in ("midpoint", "heun") if order > 1 else ("midpoint",):
                yield {"solver_order": order, "solver_type": solver}

    # Where a scheduler has no prediction of x0 (PNDM, KDPM2, Euler ancestral, EDM, the SDEs), diffusers has none.
    two = KINDS[::2]
    at_last = {"final_sigmas_type": "sigma_min"}
    yield from every("DDIM", clip_sample=False, **SD)
    yield from every("DDIM", set_alpha_to_one=False, steps_offset=1, clip_sample=False, **SD)
    yield from every("DDIM", KINDS[1:], rescale_betas_zero_snr=True, clip_sample=False, **SD)
    yield from every("DDIM", ("epsilon",), ("leading",), clip_sample=True, clip_sample_range=0.9)
    yield from every("DDIM", ("epsilon",), ("leading",), clip_sample=False, beta_schedule="squaredcos_cap_v2")
    yield from every("DDPM", clip_sample=False, **SD)
    yield from every("DDPM", ("epsilon",), ("leading",), variance_type="fixed_large", clip_sample=True)
    for beta_schedule in ("sigmoid", "laplace"):
        yield from every("DDPM", ("v_prediction",), ("leading",), beta_schedule=beta_schedule, clip_sample=False)
    for skip in (True, False):
        yield from every("PNDM", two, skip_prk_steps=skip, **SD)
        yield from every("PNDM", two, skip_prk_steps=skip, set_alpha_to_one=True, **SD)
    yield from every("PNDM", ("epsilon",), ("leading",), skip_prk_steps=True, steps_offset=1, **SD)
    for name, kinds in (
        ("LMSDiscrete", KINDS),
        ("EulerDiscrete", KINDS),
        ("HeunDiscrete", KINDS),
        ("KDPM2Discrete", two),
        ("KDPM2AncestralDiscrete", two),
        ("DPMSolverSDE", two),
        ("EulerAncestralDiscrete", two),
    ):
        yield from every(name, kinds, **SD)
        if name != "EulerAncestralDiscrete":
            yield from sigmas(name, kinds=kinds, **SD)
    yield from every("EulerDiscrete", ("epsilon",), ("leading",), steps_offset=1, **at_last, **SD)
    yield from every("EulerDiscrete", interpolation_type="log_linear", **SD)
    yield from every("EulerDiscrete", ("v_prediction",), ("trailing",), rescale_betas_zero_snr=True, **SD)
    yield from every(
        "EulerDiscrete", ("v_prediction",), ("leading",), timestep_type="continuous", use_karras_sigmas=True,
        sigma_min=0.002, sigma_max=700.0, **SD,
    )  # fmt: skip
    yield from every("HeunDiscrete", ("epsilon",), ("linspace",), beta_schedule="exp")
    dpm = "DPMSolverMultistep"
    for rule in rules():
        yield from every(dpm, **rule, **SD)
        yield from every(dpm, algorithm_type="dpmsolver", **rule, **at_last, **SD)
        # Its third order adds half of the curvature where it should take it away.
        if rule["solver_order"] < 3:
            yield from every(dpm, spacings=("leading",), algorithm_type="sde-dpmsolver++", **rule, **SD)
            yield from every(dpm, spacings=("linspace",), algorithm_type="sde-dpmsolver", **rule, **at_last, **SD)
        yield from every(dpm, ("epsilon",), ("linspace",), euler_at_final=True, **rule, **at_last, **SD)
        yield from every(dpm, ("epsilon",), ("linspace",), lower_order_final=False, **rule, **SD)
    for order in (2, 3):
        yield from sigmas(dpm, ("karras", "exponential", "beta", "lu"), solver_order=order, **SD)
    yield from every(dpm, solver_order=3, lower_order_final=False, steps_offset=1, **SD)
    yield from every(dpm, solver_order=3, lower_order_final=False, euler_at_final=True, **at_last, **SD)
    yield from every(dpm, ("sample",), ("linspace",), thresholding=True, sample_max_value=1.5, **SD)
    yield from every(
        dpm, ("epsilon",), ("linspace",), beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1,
        use_karras_sigmas=True,
    )  # fmt: skip
    yield from every(dpm, ("epsilon",), ("linspace",), beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    yield from every(dpm, ("v_prediction",), ("trailing",), rescale_betas_zero_snr=True, **SD)
    single = "DPMSolverSinglestep"
    for rule in rules():
        own = {"lower_order_final": True, **rule}
        yield from every(single, KINDS, (None,), **own, **SD)
        yield from every(single, KINDS, (None,), algorithm_type="dpmsolver", **rule, **at_last, **SD)
        if rule["solver_order"] < 3:
            yield from every(single, ("epsilon",), (None,), algorithm_type="sde-dpmsolver++", **own, **SD)
    for order in (2, 3):
        yield from sigmas(single, spacings=(None,), solver_order=order, lower_order_final=True, **SD)
    unipc = "UniPCMultistep"
    for order in (1, 2, 3):
        yield from every(unipc, solver_order=order, **SD)
        # bh1 divides infinity by infinity at sigma = 0, so both need a last sigma above it.
        yield from every(unipc, solver_order=order, solver_type="bh1", **at_last, **SD)
        yield from every(unipc, solver_order=order, predict_x0=False, **at_last, **SD)
    yield from sigmas(unipc, **SD)
    yield from sigmas(unipc, **at_last, **SD)
    yield from every(unipc, ("epsilon",), ("trailing",), solver_order=3, disable_corrector=[0, 2], **SD)
    yield from every(unipc, ("epsilon",), ("linspace",), solver_order=3, lower_order_final=False, **at_last, **SD)
    for order in (1, 2, 3):
        yield from every("DEISMultistep", solver_order=order, **SD)
    yield from sigmas("DEISMultistep", solver_order=3, **SD)
    for name in (dpm, single, unipc, "DEISMultistep"):
        extra = {"lower_order_final": True} if name == single else {}
        for order in (1, 2, 3):
            own = {"use_flow_sigmas": True, "flow_shift": 3.0, "solver_order": order, **extra}
            yield from every(name, ("flow_prediction",), (None,), **own)
    for schedule in ("karras", "exponential"):
        yield from every("EDMEuler", two, (None,), sigma_schedule=schedule)
        for rule in rules():
            yield from every("EDMDPMSolverMultistep", two, (None,), sigma_schedule=schedule, **rule)
    flow = "FlowMatchEulerDiscrete"
    for shift in (1.0, 3.0):
        yield from every(flow, (None,), (None,), shift=shift)
        yield from every("FlowMatchHeunDiscrete", (None,), (None,), shift=shift)
    for style in ("karras", "exponential", "beta"):
        yield from every(flow, (None,), (None,), shift=3.0, **{f"use_{style}_sigmas": True})
    yield from every(flow, (None,), (None,), shift=1.0, shift_terminal=0.1)
    yield from every(flow, (None,), (None,), shift=3.0, stochastic_sampling=True)
    yield from every(flow, (None,), (None,), use_dynamic_shifting=True, options={"mu": 0.63})
    for name in ("LCM", "TCD"):
        # Their timesteps don't look at the spacing, which is shown by giving them each.
        yield from every(name)
        yield from every(name, ("epsilon",), (None,), original_inference_steps=100)
    yield from every("LCM", ("epsilon",), (None,), timestep_scaling=1.0)


def main() -> None:
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    index, wide, narrow = [], [], []
    for config, steps, options in cases():
        try:
            path = trajectory(config, steps, options, wide=True)
            last = trajectory(config, steps, options, wide=False)[-1]
        except Exception as error:
            print("left out:", config, steps, repr(error)[:120])
            continue
        if not np.all(np.isfinite(path)):
            print("not finite:", config, steps)
            continue
        index.append({"config": config, "steps": steps, "options": options, "length": len(path)})
        wide.append(path)
        narrow.append(last)
    text = json.dumps({"diffusers": diffusers.__version__, "torch": torch.__version__, "cases": index})
    np.savez_compressed(
        OUT,
        index=np.frombuffer(text.encode(), np.uint8),
        float64=np.concatenate(wide).astype(np.float32),
        float32=np.stack(narrow).astype(np.float32),
    )
    print(len(index), "cases", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
