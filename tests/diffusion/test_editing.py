"""Editing, and likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import editing, grids, likelihood, samplers
from ldm_jax.diffusion.prediction import Estimate
from ldm_jax.diffusion.schedules import EDM, Cosine, RectifiedFlow
from tests.diffusion.problems import CENTRES, COVARIANCE, MEAN, SHARES, SPREAD, gaussian, mixture

KEY = jax.random.key(1)
SCHEDULE = Cosine()


def test_strength_is_the_share_of_the_steps():
    grid = grids.linspace(10)
    np.testing.assert_array_equal(editing.strength_grid(grid, 1.0), grid)
    np.testing.assert_array_equal(editing.strength_grid(grid, 0.3), grid[7:])
    assert editing.strength_grid(grid, 0.01).shape == (2,)
    with pytest.raises(ValueError, match=r"strength: 0\.0 is not in"):
        editing.strength_grid(grid, 0.0)


def test_image_to_image():
    """Little strength keeps the image, full strength forgets it."""
    x0 = jnp.full((64, 2), 1.5)
    far = [
        float(jnp.abs(editing.image_to_image(gaussian(SCHEDULE), samplers.ddim(), SCHEDULE, grids.linspace(20), x0,
        KEY, s) - x0).mean()) for s in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    assert far[0] < 0.2 < far[2]
    assert far[0] < far[1] < far[2]


def test_noise_of_an_example_is_its_own():
    x0, keys = jnp.zeros((3, 4)), jax.random.split(KEY, 3)
    whole = editing.add_noise(SCHEDULE, x0, jnp.asarray(0.5), keys)
    np.testing.assert_array_equal(editing.add_noise(SCHEDULE, x0[1:2], jnp.asarray(0.5), keys[1:2]), whole[1:2])


def correlated(schedule):
    """Pairs N(0, [[1, 0.9], [0.9, 1]])."""
    joint = np.array([[1.0, 0.9], [0.9, 1.0]])

    def denoise(z, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        # The eigenvectors are known: the sum and the difference.
        axes = jnp.asarray([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
        scales = jnp.asarray(np.linalg.eigvalsh(joint)[::-1].copy(), z.dtype)
        along = (z @ axes) / (alpha**2 * scales + sigma**2)[None]
        return Estimate((alpha * scales[None] * along) @ axes.T, sigma * along @ axes.T)

    return denoise


def test_inpainting_keeps_what_is_known_and_repaint_harmonises():
    known, mask = jnp.full((2048, 2), 1.0), jnp.asarray([[0.0, 1.0]])
    z = jax.random.normal(KEY, (2048, 2))
    grid, denoise = grids.linspace(20), correlated(SCHEDULE)
    once = samplers.sample(denoise, editing.inpaint(samplers.ddpm(), known, mask), SCHEDULE, grid, z, KEY)
    often = editing.repaint(denoise, samplers.ddpm(), SCHEDULE, grid, z, KEY, known, mask, jump=4, resample=6)
    for found in (once, often):
        np.testing.assert_allclose(found[:, 0], 1.0, atol=1e-6)
    # The other coordinate, given 1.0 in the first, has mean 0.9 and variance 0.19.
    misses = [abs(float(found[:, 1].mean()) - 0.9) for found in (once, often)]
    assert misses[1] < 0.08
    assert misses[1] < 0.7 * misses[0]


def test_repaint_walks_as_the_paper_says():
    walk = editing.repaint_grid(grids.linspace(4), jump=2, resample=2)
    assert np.round(np.asarray(walk) * 4).astype(int).tolist() == [4, 3, 2, 1, 0, 1, 2, 1, 0]
    np.testing.assert_array_equal(editing.repaint_grid(grids.linspace(4), 2, 1), grids.linspace(4))
    with pytest.raises(ValueError, match="not positive integers"):
        editing.repaint_grid(grids.linspace(4), 0, 1)


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [(SCHEDULE, 0.98, 0.0), (RectifiedFlow(), 1.0, 0.0), (EDM(), 1.0, 0.0)],
    ids=["variance preserving", "from pure noise", "variance exploding"],
)
def test_inversion(schedule, start, end):
    """Sampling leads back to where inversion came from; the closer, the better the implicit step is solved."""
    x0 = jax.random.normal(KEY, (8, 2)) * 0.5
    grid = grids.linspace(25, start, end)

    def there_and_back(refine):
        up = editing.invert(mixture(schedule), schedule, grid, x0, refine)
        down = samplers.sample(mixture(schedule), samplers.ddim(), schedule, grid, up, KEY)
        return float(jnp.abs(down - x0).max())

    plain, some, many = map(there_and_back, (0, 3, 12))
    assert 1e-3 < plain < 0.4
    assert some < plain / 10 and many < 1e-5


def test_slerp():
    a, b = (jax.random.normal(k, (5, 4, 4, 3)) for k in jax.random.split(KEY))
    np.testing.assert_allclose(editing.slerp(a, b, 0.0), a, atol=1e-5)
    np.testing.assert_allclose(editing.slerp(a, b, 1.0), b, atol=1e-5)
    middle = editing.slerp(a, b, jnp.full(5, 0.5))
    assert float(middle.std()) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose(editing.slerp(a, a, 0.3), a, atol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda x: editing.slerp(x, a, 0.5).sum())(a)))


@pytest.mark.parametrize("batched", [True, False])
def test_tiles(batched):
    """A denoiser that treats pixels alike is the same in tiles; windows see their own size; odd sizes are covered."""
    z = jax.random.normal(KEY, (2, 11, 8, 3))
    seen = []

    def alike(z, t):
        seen.append(z.shape)
        return Estimate(jnp.tanh(z) * t, z - t)

    whole = alike(z, jnp.asarray(0.5))
    for border in (0.0, 0.25):
        found = editing.tiled(alike, 6, 4, batched, border)(z, jnp.asarray(0.5))
        np.testing.assert_allclose(found.x0, whole.x0, atol=1e-5)
        np.testing.assert_allclose(found.eps, whole.eps, atol=1e-5)
    assert set(seen[1:]) == {(2, 6, 6, 3)}
    audio = editing.tiled(alike, 6, 4, batched)(z[:, :, 0], jnp.asarray(0.5))
    np.testing.assert_allclose(audio.x0, whole.x0[:, :, 0], atol=1e-5)


def test_sampling_in_tiles():
    z = jax.random.normal(KEY, (1, 12, 12, 2))
    out = samplers.sample(
        editing.tiled(lambda z, t: Estimate(z * 0 + 0.3, z), 8, 4), samplers.ddim(), SCHEDULE, grids.linspace(4), z, KEY
    )
    np.testing.assert_allclose(out, 0.3, atol=1e-5)


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), EDM()], ids=lambda s: type(s).__name__)
def test_likelihood_of_a_gaussian(schedule):
    """The exact log density, with all directions; and in the mean over many probes."""
    x = jnp.asarray(np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 5))
    end = 0.1 if isinstance(schedule, EDM) else 1e-4
    grid = grids.linspace(60, 0.999 if not isinstance(schedule, EDM) else 1.0, end)
    with jax.enable_x64(True):
        x = x.astype(jnp.float64)
        z = x * schedule.alpha(jnp.asarray(end))
        noisy = COVARIANCE * float(schedule.alpha(jnp.asarray(end))) ** 2 + float(
            schedule.sigma(jnp.asarray(end))
        ) ** 2 * np.eye(2)
        away = np.asarray(z) - MEAN * float(schedule.alpha(jnp.asarray(end)))
        want = -0.5 * np.einsum("bi,ij,bj->b", away, np.linalg.inv(noisy), away) - 0.5 * np.log(
            (2 * np.pi) ** 2 * np.linalg.det(noisy)
        )
        exact = likelihood.log_likelihood(gaussian(schedule), schedule, grid, z, KEY, "exact")
        np.testing.assert_allclose(exact, want, atol=0.02)
        probed = likelihood.log_likelihood(gaussian(schedule), schedule, grid, z, KEY, 64)
        np.testing.assert_allclose(probed, want, atol=0.6)


@pytest.mark.parametrize(("probes", "atol"), [("exact", 2e-3), pytest.param(64, 0.6, marks=pytest.mark.slow)])
def test_likelihood_of_a_mixture(probes, atol):
    """The log density of two overlapping Gaussians, on a path that isn't straight: at, between and far from them."""
    schedule, end = Cosine(), 1e-4
    with jax.enable_x64(True):
        z = jnp.asarray([*CENTRES, CENTRES.mean(0), [1.5, -1.5], [-2.5, 1.0]], jnp.float64)
        alpha, sigma = (float(part(jnp.asarray(end))) for part in (schedule.alpha, schedule.sigma))
        square = (alpha * SPREAD) ** 2 + sigma**2
        away = ((np.asarray(z)[:, None] - alpha * CENTRES) ** 2).sum(-1)
        want = np.log((SHARES * np.exp(-0.5 * away / square)).sum(1) / (2 * np.pi * square))
        # The prior at t = 1 is exact: a Cosine ends in pure noise.
        found = likelihood.log_likelihood(mixture(schedule), schedule, grids.linspace(60, 1.0, end), z, KEY, probes)
        np.testing.assert_allclose(found, want, atol=atol)


def test_bits_per_dim():
    """Uniform noise over 256 levels takes 8 bits: log p of U[-1, 1] is -log 2 a dimension."""
    nats = jnp.asarray([-12 * np.log(2.0)])
    assert float(likelihood.bits_per_dim(nats, 12)[0]) == pytest.approx(1.0)
    assert float(likelihood.bits_per_dim(nats, 12, 257)[0]) == pytest.approx(8.0)
