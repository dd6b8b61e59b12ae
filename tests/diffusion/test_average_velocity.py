"""Average velocities: of Gaussian data they are known, and both identities must hold for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import grids
from ldm_jax.diffusion.average_velocity import adaptive, mean_flow, shortcut
from ldm_jax.errors import InputError

MEAN, STD = 0.7, 0.4


def spread(t):
    return jnp.sqrt((1.0 - t) ** 2 * STD**2 + t**2)


def moved(z, t, s):
    """Where the flow of N(MEAN, STD^2) takes z from t to s."""
    return (1.0 - s) * MEAN + spread(s) / spread(t) * (z - (1.0 - t) * MEAN)


def velocity(z, t):
    return jax.jvp(lambda s: moved(z, t, s), (t,), (jnp.ones_like(t),))[1]


def average(z, t, h):
    """u [b 1] of the exact flow; h > 0."""
    t, h = t[:, None], h[:, None]
    return (z - moved(z, t, t - h)) / h


@pytest.fixture
def problem():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        t = jnp.asarray(rng.uniform(0.3, 1.0, 64))
        h = t * jnp.asarray(rng.uniform(0.05, 1.0, 64))
        z = jnp.asarray(rng.standard_normal((64, 1)))
        yield z, t, h


def test_the_exact_average_is_what_mean_flow_asks_for(problem):
    z, t, h = problem
    found, wanted = mean_flow(average, z, t, h, velocity(z, t[:, None]))
    np.testing.assert_allclose(found, average(z, t, h))
    np.testing.assert_allclose(wanted, found, rtol=1e-9, atol=1e-9)


def test_of_single_examples_it_asks_for_that_on_average(problem):
    """Data and noise that lead to one z differ in velocity; the mean of what is asked for is the average velocity."""
    z, t, h = (part[:1] for part in problem)
    rng = np.random.default_rng(1)
    alpha, sigma = 1.0 - t[0], t[0]
    # p(x0 | z) of Gaussian data.
    precision = 1.0 / STD**2 + alpha**2 / sigma**2
    centre = (MEAN / STD**2 + alpha * z[0, 0] / sigma**2) / precision
    x0 = centre + jnp.asarray(rng.standard_normal((4000, 1))) / jnp.sqrt(precision)
    eps = (z[0, 0] - alpha * x0) / sigma
    many = [jnp.broadcast_to(part, (4000, *part.shape[1:])) for part in (z, t, h)]
    for tangent in (None, velocity(many[0], many[1][:, None])):
        _, wanted = mean_flow(average, *many, eps - x0, tangent)
        assert abs(wanted.mean() - average(z, t, h)[0, 0]) < 4.0 * wanted.std() / 4000**0.5


def test_its_derivative_is_that_of_finite_differences(problem):
    z, t, h = problem

    def network(z, t, h):
        return jnp.sin(3.0 * z + t[:, None]) * jnp.cos(2.0 * h[:, None] * z)

    v, step = velocity(z, t[:, None]), 1e-5
    change = (network(z + step * v, t + step, h + step) - network(z - step * v, t - step, h - step)) / (2 * step)
    _, wanted = mean_flow(network, z, t, h, v)
    np.testing.assert_allclose(wanted, v - h[:, None] * change, rtol=1e-3, atol=1e-6)
    assert np.abs(wanted - v).max() > 0.1


def test_no_interval_asks_for_the_velocity(problem):
    z, t, h = problem
    _, wanted = mean_flow(lambda z, t, h: jnp.tanh(z + h[:, None]), z, t, 0.0 * h, velocity(z, t[:, None]))
    np.testing.assert_array_equal(wanted, velocity(z, t[:, None]))


def test_the_exact_average_is_what_shortcuts_ask_for(problem):
    z, t, h = problem
    np.testing.assert_allclose(shortcut(average, z, t, h), average(z, t, h), rtol=1e-9, atol=1e-9)


def test_the_shortest_shortcuts_are_made_of_velocities(problem):
    z, t, h = problem
    asked = []

    def network(z, t, h):
        asked.append(h)
        return z

    shortcut(network, z, t, h, least=0.2)
    for found in asked:
        np.testing.assert_array_equal(found, jnp.where(h > 0.4, h / 2, 0.0))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_adaptive_loss_has_the_papers_gradient_and_the_errors_value(power):
    rng = np.random.default_rng(0)
    found, wanted = (jnp.asarray(rng.standard_normal((3, 2, 4)), jnp.float32) for _ in range(2))
    squares = ((found - wanted) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(adaptive(found, wanted, power), squares / 8, rtol=1e-6)
    gradient = jax.grad(lambda x: adaptive(x, wanted, power).sum())(found)
    scale = ((squares + 0.01) ** -power)[:, None, None]
    np.testing.assert_allclose(gradient, 2.0 * (found - wanted) * scale, rtol=1e-5)


def test_no_gradient_goes_through_what_is_asked_for(problem):
    z, t, h = problem

    def loss(scale):
        return mean_flow(lambda z, t, h: scale * z * t[:, None], z, t, h, z)[1].sum()

    assert jax.grad(loss)(2.0) == 0.0
    assert jax.grad(lambda scale: shortcut(lambda z, t, h: scale * z, z, t, h).sum())(2.0) == 0.0


def test_where_a_step_leads():
    grid = jnp.asarray([1.0, 0.75, 0.25, 0.0])
    np.testing.assert_array_equal(grids.following(grid, grid), [0.75, 0.25, 0.0, 0.0])
    np.testing.assert_array_equal(grids.following(grid, jnp.asarray(0.5)), 0.25)


def test_wrong_input_is_one_line():
    z, t = jnp.zeros((2, 3)), jnp.ones(2)
    with pytest.raises(InputError, match="velocity"):
        mean_flow(lambda z, t, h: z, z, t, t, z[:, :2])
    with pytest.raises(InputError, match="wanted"):
        adaptive(z, z[:, :2])
    with pytest.raises(InputError, match="floor"):
        adaptive(z, z, floor=0.0)
