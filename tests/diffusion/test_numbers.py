"""Every function of diffusion/ on short floats, grey levels, odd shapes and single elements: right, or an InputError.

As users have them, without checks of annotations. Right is what the same numbers give in float32, up to rounding.
"""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.diffusion import editing, grids, guidance, likelihood, losses, prediction, samplers, schedules, times
from ldm_jax.diffusion.guidance_choices import GUIDANCE_CHOICES
from ldm_jax.diffusion.prediction import Estimate, LearnedEstimate, Preconditioning
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.schedules import EDM, VP, Cosine, DiscreteBetas, RectifiedFlow, Rescaled, Shifted
from ldm_jax.diffusion.time_choices import LogitNormal, LogNormal
from ldm_jax.diffusion.weightings import P2, EDMWeight, MinSNR, SigmoidWeight
from ldm_jax.errors import InputError

FLOATS = ("float16", "bfloat16", "float32")
SHAPES = ((1, 1), (2, 3, 1), (1, 5, 4, 3))
KEY = jax.random.key(0)
FLOW = RectifiedFlow()


@pytest.fixture(autouse=True, scope="module")
def _as_users_have_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def denoise(z, t):
    return Estimate(0.5 * z, z)


def pair(z, t):
    return guidance.Branches(denoise(z, t), Estimate(0.3 * z, -z))


def learned(x):
    return LearnedEstimate(x, x, jnp.full_like(x, 0.5))


T = jnp.asarray(0.7)
GRID = np.asarray([1.0, 0.6, 0.2], np.float32)
BOTH = {
    **{f"estimate {k}": lambda a, b, k=k: prediction.estimate(k, a, b, T, 1 - T) for k in prediction.KINDS},
    **{f"target {k}": lambda a, b, k=k: prediction.target(k, a, b, T, 1 - T) for k in prediction.KINDS},
    "preconditioned": lambda a, b: prediction.estimate(Preconditioning(), a, b, T, 1 - T),
    "convert": lambda a, b: prediction.convert("eps", "v", a, b, T, 1 - T),
    "clip_x0": lambda a, b: prediction.clip_x0(Estimate(a, a), b, T, 1 - T)[:2],
    "thresholded": lambda a, b: prediction.clip_x0(Estimate(a, a), b, T, 1 - T, 1.0, 0.9)[:2],
    **{f"distance {k}": lambda a, b, k=k: losses.distance(k, a, b) for k in ("squared", "l1", "huber")},
    "hybrid_vlb": lambda a, b: losses.hybrid_vlb(learned(a), a, b, FLOW, T, T / 2),
    "slerp": lambda a, b: editing.slerp(a, b, 0.3),
    "add_noise": lambda a, b: Process().add_noise(a, b, T),
    "example_loss": lambda a, b: Process(FLOW).example_loss(a, b, b, a, jnp.full(a.shape[0], 0.3)),
}
"""Functions of two arrays of one shape."""
ONE = {
    "expand": lambda a: prediction.expand(T, a) * a,
    "mean_example": losses.mean_example,
    "input_scale": lambda a: prediction.input_scale(Preconditioning(), a.ravel()[:1], a.ravel()[:1] + 1),
    "weight": lambda a: losses.weight("min_snr", "eps", jnp.abs(a).ravel()[:1], jnp.ones(1)),
    "classifier_free": lambda a: guidance.classifier_free(pair, 3.0, rescale=0.7, schedule=FLOW)(a, T),
    "cfg_zero_star": lambda a: guidance.cfg_zero_star(pair, 3.0, FLOW)(a, T),
    "apg": lambda a: guidance.apg(pair, 3.0, FLOW).apply(a, T, jnp.zeros_like(a).astype(jnp.float32))[0],
    "autoguidance": lambda a: guidance.autoguidance(denoise, lambda z, t: Estimate(0.3 * z, z), 2.0)(a, T),
    "classifier": lambda a: guidance.classifier(denoise, lambda z, t: z.reshape(len(z), -1).sum(1), 2.0, FLOW)(a, T),
    "compose": lambda a: guidance.compose(denoise, [denoise], [2.0])(a, T),
    "branches": lambda a: guidance.branches(lambda z, t, c: denoise(z, t), a, a)(a, T).conditional,
    "tiled": lambda a: editing.tiled(denoise, 2, 1, border=0.2)(a, T),
    "split_learned": lambda a: prediction.split_learned(jnp.concatenate([a, a], -1)),
    "repaint_grid": lambda a: editing.repaint_grid(grids.linspace(4)),
    "bits_per_dim": lambda a: likelihood.bits_per_dim(a.ravel(), 3),
}
"""Functions of one."""
DRAWING = {
    "noise_offset": lambda a: losses.noise_offset(jax.random.split(KEY, len(a)), a),
    "input_perturbation": lambda a: losses.input_perturbation(jax.random.split(KEY, len(a)), a),
    "edit.add_noise": lambda a: editing.add_noise(FLOW, a, T, KEY),
    "normal": lambda a: samplers.normal(jax.random.split(KEY, len(a)), a),
    "sample": lambda a: samplers.sample(denoise, samplers.ddim(), FLOW, GRID, a, KEY),
    "image_to_image": lambda a: editing.image_to_image(denoise, samplers.ddim(), FLOW, GRID, a, KEY),
    "invert": lambda a: editing.invert(denoise, FLOW, GRID, a),
    "log_likelihood": lambda a: likelihood.log_likelihood(denoise, FLOW, GRID, a, KEY),
    "inpaint": lambda a: samplers.sample(
        denoise, editing.inpaint(samplers.ddim(), a, np.ones(a.shape, bool)), FLOW, GRID, a, KEY
    ),
    "repaint": lambda a: editing.repaint(
        denoise, samplers.ddim(), FLOW, GRID, a, KEY, a, np.ones(a.shape, bool), jump=1, resample=2
    ),
    "sample_adaptive": lambda a: samplers.sample_adaptive(denoise, FLOW, a, start=0.9, end=0.5).z,
}
"""Functions that draw, in the array's type, or compile a loop: of these it is asked that they are finite, or refuse."""


def values(result):
    return [np.asarray(leaf).astype(np.float64) for leaf in jax.tree.leaves(result)]


def arrays(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return tuple(jnp.asarray(rng.integers(1, 255, shape), jnp.uint8) for _ in range(2))
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for _ in range(2))


def close(got, want, dtype):
    """To a few units of the type's last place, of the largest element: guidance and division enlarge them."""
    for a, b in zip(values(got), values(want), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=8 * float(jnp.finfo(dtype).eps) * max(np.abs(b).max(), 1.0))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([*BOTH, *ONE]), st.sampled_from([*FLOATS, "uint8"]), st.sampled_from(SHAPES))
def test_functions_of_arrays_of_any_type(name, dtype, shape):
    a, b = arrays(shape, dtype)
    call = BOTH[name] if name in BOTH else lambda a, b: ONE[name](a)
    if dtype == "uint8":
        if name not in ("repaint_grid", "branches"):
            with pytest.raises(InputError):
                call(a, b)
        return
    close(call(a, b), call(a.astype(jnp.float32), b.astype(jnp.float32)), dtype)


@pytest.mark.parametrize("name", BOTH)
def test_arrays_of_two_shapes_are_refused(name):
    with pytest.raises(InputError):
        BOTH[name](jnp.ones((2, 4, 3)), jnp.ones((2, 4, 1)))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([*DRAWING]), st.sampled_from([*FLOATS, "uint8"]))
def test_functions_that_draw(name, dtype):
    a, _ = arrays((2, 3), dtype)
    if dtype == "uint8":
        with pytest.raises(InputError):
            DRAWING[name](a)
        return
    got = DRAWING[name](a)
    assert np.isfinite(values(got)).all()


SCHEDULES = (FLOW, Cosine(), VP(), EDM(), DiscreteBetas(), DiscreteBetas(zero_snr=True), Shifted(), Rescaled())


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(SCHEDULES), st.sampled_from([*FLOATS, "uint8"]), st.sampled_from([(), (1,), (3,), (2, 2)]))
def test_times_of_any_type(schedule, dtype, shape):
    t = jnp.asarray(np.resize([1.0, 0.0, 1.0] if dtype == "uint8" else [0.3, 0.97, 0.6], shape), dtype)
    wide = t.astype(jnp.float32)
    for function in (schedule.alpha, schedule.sigma, lambda t: schedules.timestep(schedule, jnp.maximum(t, 1))):
        got = function(t)
        assert got.shape == shape and got.dtype == jnp.float32
        np.testing.assert_allclose(got, function(wide), rtol=1e-6, atol=1e-7)
    level = jnp.asarray(np.resize([0.5, -1.0], shape), "float32" if dtype == "uint8" else dtype)
    np.testing.assert_allclose(schedules.time(schedule, level), schedules.time(schedule, level.astype(jnp.float32)))


def test_white_and_black_masks():
    z, known = jnp.zeros((2, 4, 4, 4)), jnp.ones((2, 4, 4, 4))
    half = np.zeros((4, 4), np.uint8)
    half[:2] = 255
    want = np.broadcast_to((half / 255.0)[None, :, :, None], (2, 4, 4, 1))
    for mask in (half, half[None, :, :, None], half > 0, (half / 255.0), half // 255, want, want.astype(jnp.bfloat16)):
        found = editing.mask_for(mask, known)
        np.testing.assert_array_equal(np.broadcast_to(found, want.shape), want)
    painted = samplers.sample(
        lambda z, t: Estimate(jnp.zeros_like(z), z), editing.inpaint(samplers.ddim(), known, half), FLOW,
        np.asarray([1.0, 0.5, 0.0]), z, KEY,
    )  # fmt: skip
    np.testing.assert_allclose(painted[:, 2:], 1.0, atol=1e-6)
    np.testing.assert_allclose(painted[:, :2], 0.0, atol=1e-6)
    with pytest.raises(InputError, match="may be meant in two ways"):
        editing.mask_for(np.ones((4, 4, 4)), jnp.ones((4, 4, 4, 4)))
    for mask in (np.ones(4), np.ones((3, 4)), np.full((4, 4), 2.0), np.full((4, 4), np.nan)):
        with pytest.raises(InputError, match="mask: "):
            editing.mask_for(mask, known)


def test_small_errors_are_not_lost_in_the_pseudo_huber_loss():
    x = jnp.asarray([[1e-4]])
    assert float(losses.distance("huber", x, jnp.zeros_like(x))[0]) == pytest.approx(5e-9, rel=1e-5)
    with pytest.raises(InputError, match="delta: 0"):
        losses.distance("huber", x, x, 0.0)
    with pytest.raises(InputError, match="huber_delta"):
        Process(distance="huber", huber_delta=0.0)


def test_large_latents_in_float16():
    """The sum of their squares is beyond float16."""
    z = jnp.ones((1, 256, 256, 2), jnp.float16)
    close(ONE["cfg_zero_star"](z), ONE["cfg_zero_star"](z.astype(jnp.float32)), "float16")


def test_ends_where_a_weight_is_a_limit():
    """sigmoid's factor dlogsnr / dt is infinite at both ends of a path, the weight is not."""
    t = jnp.asarray([0.0, 0.5, 1.0])
    for kind in ("x0", "eps", "v", "flow"):
        got = losses.weight("sigmoid", kind, FLOW.alpha(t), FLOW.sigma(t), dlogsnr_dt=losses.dlogsnr(FLOW, t))
        assert np.isfinite(got).all()
    x = jnp.ones((3, 2))
    assert np.isfinite(losses.hybrid_vlb(learned(x), x, x, FLOW, t, jnp.maximum(t - 0.1, 0.0))).all()


WRONG = [
    (lambda: LogitNormal(mean=float("nan")), "process.times.mean: nan"),
    (lambda: LogitNormal(std=float("inf")), "process.times.std: inf"),
    (lambda: LogNormal(mean=float("inf")), "process.times.mean: inf"),
    (lambda: times.sample_times("logit_normal", jax.random.split(KEY, 2), float("nan")), "mean, std: nan"),
    (lambda: MinSNR(float("inf")), "gamma: inf"),
    (lambda: P2(gamma=float("nan")), "gamma: nan"),
    (lambda: EDMWeight(float("nan")), "sigma_data: nan"),
    (lambda: SigmoidWeight(float("nan")), "bias: nan"),
    (lambda: Process(noise_offset=float("nan")), "process.noise_offset: nan"),
    (lambda: GUIDANCE_CHOICES["classifier_free"](rescale=1.5), "sampling.rule.rescale: 1.5"),
    (lambda: GUIDANCE_CHOICES["classifier_free"](interval=(0.0, float("nan"))), "sampling.rule.interval"),
    (lambda: GUIDANCE_CHOICES["cfg_zero_star"](zero_init=-0.1), "sampling.rule.zero_init: -0.1"),
    (lambda: GUIDANCE_CHOICES["apg"](momentum=1.0), "sampling.rule.momentum: 1.0"),
    (lambda: GUIDANCE_CHOICES["apg"](norm_threshold=float("nan")), "sampling.rule.norm_threshold: nan"),
    (lambda: GUIDANCE_CHOICES["apg"](eta=float("inf")), "sampling.rule.eta: inf"),
    (lambda: guidance.classifier_free(pair, float("nan")), "scale: nan must be finite"),
    (lambda: guidance.cfg_zero_star(pair, np.asarray([1.0, np.inf]), FLOW), "scale: .* must be finite"),
    (lambda: guidance.classifier_free(pair, 2.0, rescale=-1.0, schedule=FLOW), "rescale: -1.0"),
    (lambda: DiscreteBetas(end=2.0), "start, end: "),
    (lambda: DiscreteBetas(table=(0.1, 1.0)), "betas: they must be"),
    (lambda: DiscreteBetas(steps=0), "steps: 0 is not"),
    (lambda: VP(beta_min=float("nan")), "VP: beta_min"),
    (lambda: EDM(sigma_min=0.0), "EDM: sigma_min: 0.0"),
    (lambda: Shifted(s=float("inf")), "Shifted: s: inf"),
    (lambda: Rescaled(EDM()), "Rescaled: base"),
    (lambda: editing.tiled(denoise, 2, 3)(jnp.ones((1, 6, 6, 1)), T), "no stride longer"),
    (lambda: editing.strength_grid(GRID, float("nan")), "strength: nan"),
    (lambda: samplers.pndm_grid(GRID, "runge_kutta"), "steps: 2 must be at least 4"),
    (lambda: grids.karras(DiscreteBetas(), 4, rho=0.0), "rho: 0.0"),
    (lambda: grids.flow(4, s=float("nan")), "s: nan"),
    (lambda: grids.flow(4, terminal=1.0), "terminal: 1.0"),
    (lambda: grids.linspace(4, 0.0, 1.0), "start, end: "),
    (lambda: grids.from_sigmas(FLOW, [1.0, 1.0]), "sigmas: they must be descending"),
    (lambda: schedules.resolution_shift(4, 256, 256), "max_tokens: 256"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_no_number_is_refused(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_no_function_is_forgotten():
    """All public functions of the modules on arrays stand in the tables above, or are tested elsewhere as said here."""
    elsewhere = {
        prediction: {"split_learned", "estimate", "target"},
        losses: {"dlogsnr"},
        editing: {"strength_grid", "mask_for", "repaint_grid"},
        guidance: set(),
        likelihood: set(),
    }
    words = " ".join([*BOTH, *ONE, *DRAWING]).split()
    for module, known in elsewhere.items():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                assert name in known or name in words, f"{module.__name__}.{name}"
