"""What every sampler must bear, and what single ones promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import grids
from ldm_jax.diffusion import samplers as S
from ldm_jax.diffusion.guidance import Branches, classifier_free
from ldm_jax.diffusion.prediction import Estimate, LearnedEstimate, estimate
from ldm_jax.diffusion.samplers.base import run
from ldm_jax.diffusion.schedules import EDM, Cosine, DiscreteBetas, RectifiedFlow
from tests.diffusion.problems import COVARIANCE, MEAN, both, gaussian, mixture_moments

KEY = jax.random.key(7)


def count_equations(jaxpr):
    """All equations of a jaxpr, those inside others included."""
    inner = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                part = getattr(part, "jaxpr", part)
                inner += count_equations(part) if hasattr(part, "eqns") else 0
    return len(jaxpr.eqns) + inner


@pytest.mark.parametrize("name", S.SAMPLERS)
def test_transforms(name):
    """jit, vmap, grad through the scan with remat by a traced guidance scale; one compilation for every scale and seed;
    a jaxpr that doesn't grow."""
    sampler, schedule, traces = S.SAMPLERS[name](), Cosine(), []
    z = jax.random.normal(KEY, (3, 2, 1))

    def loss(scale, key, steps):
        def pair(z_t, t):
            outputs = jnp.tanh(z_t + jnp.sin(t)), 0.5 * jnp.tanh(z_t)
            return Branches(*(estimate("v", v, z_t, schedule.alpha(t), schedule.sigma(t)) for v in outputs))

        denoise = classifier_free(pair, scale)
        return S.sample(denoise, sampler, schedule, grids.linspace(steps), z, key, remat=True).sum()

    def counted(scale, keys):
        traces.append(1)
        return jax.vmap(jax.value_and_grad(lambda s, k: loss(s, k, 5)), (None, 0))(scale, keys)

    compiled = jax.jit(counted)
    first = compiled(jnp.asarray(0.5), jax.random.split(jax.random.key(1), 2))
    second = compiled(jnp.asarray(0.9), jax.random.split(jax.random.key(2), 2))
    assert len(traces) == 1
    for value, slope in (first, second):
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(slope))
        assert np.all(np.asarray(slope) != 0)
    sizes = [count_equations(jax.make_jaxpr(lambda s: loss(s, KEY, n))(0.5).jaxpr) for n in (5, 50)]  # noqa: B023
    assert sizes[1] <= sizes[0]


@pytest.mark.parametrize("schedule", [RectifiedFlow(), DiscreteBetas(), EDM()], ids=lambda s: type(s).__name__)
def test_ends(schedule):
    """From the noisiest time to t = 0: finite, and at the data if all data are one point."""
    z = jax.random.normal(KEY, (4, 2)) * schedule.sigma(jnp.ones(()))

    def denoise(z_t, t):
        sigma = schedule.sigma(t)
        return Estimate(jnp.full_like(z_t, 0.5), (z_t - schedule.alpha(t) * 0.5) / jnp.where(sigma == 0, 1.0, sigma))

    exact = (
        "ddim",
        "ddpm",
        "heun",
        "rk4",
        "dpm_2",
        "dpmpp_sde",
        "dpmpp_3m",
        "dpm_solver",
        "unipc",
        "deis",
        "lms",
        "plms",
    )
    # Euler-Maruyama's last step and EDM's raised noise leave some behind; TCD ends by a step to (1 - gamma) s.
    inexact = ("euler_maruyama", "edm", "tcd")

    @jax.jit
    def ends(z):
        return [
            S.sample(denoise, S.SAMPLERS[n](), schedule, grids.linspace(6), z, KEY) for n in (*exact, "lcm", *inexact)
        ]

    for name, got in zip((*exact, "lcm", *inexact), ends(z), strict=True):
        assert np.all(np.isfinite(got)), name
        if name not in inexact:
            np.testing.assert_allclose(got, 0.5, atol=2e-3, err_msg=name)


def cloud(sampler, steps, schedule=None, n=8192, denoise=both):
    """Mean and covariance of the first half (the Gaussian) and of the second (the mixture)."""
    schedule = schedule or Cosine()
    z = jax.random.normal(jax.random.key(11), (n, 2)) * schedule.sigma(jnp.ones(()))
    grid = grids.linspace(steps)
    got = jax.jit(lambda z: S.sample(denoise(schedule), sampler, schedule, grid, z, KEY))(z)
    halves = np.asarray(got, np.float64).reshape(2, n // 2, 2)
    return [(half.mean(0), np.cov(half.T)) for half in halves]


SDES = {
    "ddpm": (S.ddpm(), 200),
    "ddpm large": (S.ddpm("large"), 200),
    "ddim eta 0.5": (S.ddim(0.5), 200),
    "euler_ancestral": (S.euler_ancestral(), 200),
    "euler_maruyama": (S.euler_maruyama(), 200),
    "euler_maruyama sbdm": (S.euler_maruyama("sbdm", last="tweedie"), 200),
    "euler_maruyama linear": (S.euler_maruyama("linear", last="euler"), 200),
    "edm": (S.edm(s_churn=20.0, s_max=2.0, s_noise=1.0), 64),
    "dpm_2_ancestral": (S.dpm_2_ancestral(), 100),
    "dpmpp_2s_ancestral": (S.dpmpp_2s_ancestral(), 100),
    "dpmpp_sde": (S.dpmpp_sde(), 100),
    "dpmpp_2m_sde": (S.dpmpp_2m_sde(), 100),
    "dpmpp_2m_sde eta 0.5": (S.dpmpp_2m_sde(0.5), 100),
    "dpmpp_3m_sde": (S.dpmpp_3m_sde(), 100),
    "single_step_sde": (S.dpm_solver_single(2, "x0", eta=1.0), 200),
}


@pytest.mark.parametrize("name", SDES)
def test_stochastic_samplers_reproduce_the_moments(name):
    sampler, steps = SDES[name]
    n = 4096
    for (mean, covariance), (true_mean, true) in zip(
        cloud(sampler, steps), ((MEAN, COVARIANCE), mixture_moments()), strict=True
    ):
        variances = np.diag(true)
        # Four standard errors of a mean, and of a covariance of (close to) Gaussian data.
        assert np.all(np.abs(mean - true_mean) < 4 * np.sqrt(variances / n)), (mean, true_mean)
        allowed = 4 * np.sqrt((np.outer(variances, variances) + true**2) / n)
        assert np.all(np.abs(covariance - true) < allowed), (covariance, true)


def test_consistency_sampling_with_a_perfect_consistency_function():
    """Given the end of the ODE's path in place of the mean, LCM and TCD (gamma = 1) draw from the data in any steps."""
    schedule = Cosine()

    def perfect(schedule):
        factor = np.linalg.cholesky(COVARIANCE)
        scales, axes = np.linalg.eigh(COVARIANCE)
        del factor

        def denoise(z, t):
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            rotated = (z - (alpha * jnp.asarray(MEAN, z.dtype))[None]) @ jnp.asarray(axes, z.dtype)
            spread = jnp.sqrt(alpha**2 * jnp.asarray(scales, z.dtype) + sigma**2)
            x0 = (rotated * (jnp.sqrt(jnp.asarray(scales, z.dtype)) / spread)[None]) @ jnp.asarray(axes.T, z.dtype)
            return Estimate(x0 + jnp.asarray(MEAN, z.dtype)[None], z)

        return denoise

    for sampler in (S.lcm(), S.tcd(1.0)):
        for mean, covariance in cloud(sampler, 4, schedule, denoise=perfect):
            np.testing.assert_allclose(mean, MEAN, atol=0.04)
            np.testing.assert_allclose(covariance, COVARIANCE, atol=0.04)


def test_noise_is_the_examples_own():
    """An example's path is the same alone, in a batch, and in another place of it."""
    z, schedule = jax.random.normal(KEY, (4, 2)), Cosine()
    keys = jax.random.split(KEY, 4)
    whole = S.sample(gaussian(schedule), S.ddpm(), schedule, grids.linspace(5), z, keys)
    for order in ([2], [3, 1]):
        part = S.sample(
            gaussian(schedule), S.ddpm(), schedule, grids.linspace(5), z[jnp.array(order)], keys[jnp.array(order)]
        )
        np.testing.assert_allclose(part, whole[jnp.array(order)], rtol=1e-5, atol=1e-6)


def test_noise_differs_between_steps_and_draws():
    drawn = []

    def step(denoise, z, state, at):
        return z, state

    def observe(z, estimate, at):
        return jnp.stack([at.noise(0), at.noise(1)])

    sampler = S.Sampler(lambda z: (), step)
    _, drawn = S.sample(
        lambda z, t: None, sampler, Cosine(), grids.linspace(3), jnp.zeros((2, 5)), KEY, observe=observe
    )
    flat = np.asarray(drawn).reshape(12, 5)
    assert len(np.unique(flat.round(6), axis=0)) == 12


def test_observe_gives_previews_from_inside_the_scan():
    schedule, z = Cosine(), jax.random.normal(KEY, (4, 2))
    end, (path, x0) = S.sample(
        gaussian(schedule), S.heun(), schedule, grids.linspace(6), z, KEY, observe=lambda z, e, at: (z, e.x0)
    )
    assert path.shape == x0.shape == (6, 4, 2)
    np.testing.assert_array_equal(path[-1], end)
    np.testing.assert_array_equal(end, S.sample(gaussian(schedule), S.heun(), schedule, grids.linspace(6), z, KEY))


def test_a_denoiser_may_remember():
    """A StatefulDenoise sees its own memory at each evaluation, also at the second one of a step."""
    schedule = Cosine()

    def apply(z, t, calls):
        return gaussian(schedule)(z, t), calls + 1

    counted = S.StatefulDenoise(
        lambda z: jnp.zeros((), jnp.int32), lambda z, t, n: (Estimate(z * 0 + n.astype(z.dtype), z * 0), n + 1)
    )
    _, seen = S.sample(
        counted, S.heun(), schedule, grids.linspace(3), jnp.zeros((1, 1)), KEY, observe=lambda z, e, at: e.x0
    )
    assert seen.reshape(-1).tolist() == [1.0, 3.0, 5.0]
    z = jax.random.normal(KEY, (4, 2))
    remembered = S.StatefulDenoise(lambda z: jnp.zeros((), jnp.int32), apply)
    a, b = (S.sample(d, S.unipc(), schedule, grids.linspace(5), z, KEY) for d in (remembered, gaussian(schedule)))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_type_of_z_stays(dtype):
    z = jax.ShapeDtypeStruct((2, 2), dtype)
    for name, make in S.SAMPLERS.items():
        sampler = make()
        out = jax.eval_shape(
            lambda z, own=sampler: S.sample(lambda z, t: Estimate(z, z), own, Cosine(), grids.linspace(4), z, KEY), z
        )
        assert out.dtype == dtype, name


def test_euler_is_the_same_in_all_variables_on_a_flow():
    schedule, z = RectifiedFlow(), jax.random.normal(KEY, (4, 2))
    found = [
        S.sample(gaussian(schedule), s, schedule, grids.linspace(7), z, KEY)
        for s in (S.euler(), S.euler("t"), S.ddim())
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_dpm_solver_plus_plus_of_order_1_and_deis_1_are_ddim():
    schedule, z = Cosine(), jax.random.normal(KEY, (4, 2))
    want = S.sample(gaussian(schedule), S.ddim(), schedule, grids.linspace(7, 0.98), z, KEY)
    for other in (S.dpm_solver(1), S.dpm_solver(1, "dpmsolver"), S.deis(1), S.unipc(1, corrector=False), S.lms(1)):
        got = S.sample(gaussian(schedule), other, schedule, grids.linspace(7, 0.98), z, KEY)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_learned_variance_lies_between_small_and_large():
    schedule, z = DiscreteBetas(), jax.random.normal(KEY, (512, 2))

    def with_variance(share):
        def denoise(z_t, t):
            return LearnedEstimate(*gaussian(schedule)(z_t, t), jnp.full_like(z_t, share))

        return denoise

    def path(denoise, sampler):
        return S.sample(denoise, sampler, schedule, grids.linspace(10), z, KEY)

    for share, name in ((0.0, "small"), (1.0, "large")):
        got = path(with_variance(share), S.ddpm("learned"))
        np.testing.assert_allclose(got, path(gaussian(schedule), S.ddpm(name)), rtol=1e-3, atol=1e-4)


def test_clipping_and_thresholding():
    schedule, z = Cosine(), jax.random.normal(KEY, (4, 6))
    large = lambda z, t: Estimate(jnp.full_like(z, 3.0), z)  # noqa: E731
    for sampler in (S.clipped(S.ddim(), 1.0), S.clipped(S.unipc(), percentile=0.9, maximum=5.0)):
        got = S.sample(large, sampler, schedule, grids.linspace(5), z, KEY)
        np.testing.assert_allclose(got, 1.0, atol=1e-5)


def test_adaptive_solver():
    """Closer tolerances cost more and err less; each example's path is its own."""
    schedule = Cosine()
    z = jax.random.normal(KEY, (8, 2))
    grid = jnp.concatenate([jnp.linspace(0.999, 1e-3, 400)])
    exact = S.sample(both(schedule), S.rk4(), schedule, grid, z, KEY)

    def vector(z, t):
        one = lambda z, t: jax.tree.map(lambda part: part[0], gaussian(schedule)(z[None], t))  # noqa: E731
        return jax.vmap(one)(z, t)

    found = [
        jax.jit(lambda z, tol=tol: S.sample_adaptive(vector, schedule, z, rtol=tol, atol=tol * 0.1))(z)
        for tol in (0.1, 0.01)
    ]
    misses = [float(jnp.abs(result.z - exact)[:4].max()) for result in found]
    assert all(bool(result.finished.all()) for result in found)
    assert misses[1] < 0.3 * misses[0]
    assert misses[1] < 0.03
    assert float(found[1].evaluations.mean()) > float(found[0].evaluations.mean())
    alone = S.sample_adaptive(vector, schedule, z[2:3], rtol=0.1, atol=0.01)
    np.testing.assert_allclose(alone.z, found[0].z[2:3], rtol=1e-4, atol=1e-5)


def test_zero_width_steps_change_nothing():
    schedule, z = Cosine(), jax.random.normal(KEY, (2, 2))
    grid = grids.linspace(4, 0.9, 0.3)
    for name in ("ddpm", "heun", "dpmpp_3m", "lms"):
        a = S.sample(gaussian(schedule), S.SAMPLERS[name](), schedule, grid, z, KEY)
        longer = jnp.concatenate([grid, grid[-1:], grid[-1:]])
        _, path = S.sample(
            gaussian(schedule),
            S.SAMPLERS[name]()._replace(revisits=True),
            schedule,
            longer,
            z,
            KEY,
            observe=lambda z, estimate, at: z,
        )
        np.testing.assert_allclose(path[-1], path[3], rtol=1e-5, atol=1e-5, err_msg=name)
        if name != "dpmpp_3m":  # which lowers its order towards the end of a short grid
            np.testing.assert_allclose(path[3], a, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: S.sample(gaussian(Cosine()), S.ddim(), Cosine(), jnp.linspace(0, 1, 5), jnp.zeros((1, 2)), KEY),
            "grid",
        ),
        (lambda: S.sample(gaussian(Cosine()), S.ddim(), Cosine(), jnp.ones(1), jnp.zeros((1, 2)), KEY), "grid: shape"),
        (lambda: S.multistep(7, "x0"), "order: 7 is not in 1..4"),
        (lambda: grids.linspace(0), "steps: 0 is not a positive integer"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_traced_grids_are_not_checked():
    go = jax.jit(lambda grid: run(gaussian(Cosine()), S.ddim(), Cosine(), grid, jnp.ones((1, 2)), KEY))
    assert np.all(np.isfinite(go(grids.linspace(3))))
