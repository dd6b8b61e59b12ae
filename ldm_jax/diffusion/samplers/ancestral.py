"""Samplers of one evaluation and no memory: DDPM, DDIM, consistency models, and the Euler-Maruyama rule of SiT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ldm_jax.diffusion.prediction import LearnedEstimate
from ldm_jax.diffusion.samplers.base import Denoise, Order, Point, Sampler, Step, point, renew, split_noise, stateless
from ldm_jax.diffusion.schedules import EDM, timestep
from ldm_jax.errors import InputError


def ddim(eta: float = 0.0) -> Sampler:
    """Denoising diffusion implicit models, Song et al. 2020 (arXiv 2010.02502), eq. 12 and 16.

    eta = 0 is deterministic (the exponential-Euler step of the ODE, order 1), eta = 1 has the variance of DDPM's
    posterior. Written with alpha and sigma, so it holds for schedules that don't preserve variance, too; there it is
    k-diffusion's Euler in sigma, and on RectifiedFlow it is Euler in t. One evaluation a step.
    """

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        estimate = denoise(z, at.t)
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        kept, fresh = split_noise(a, b, eta)
        return renew(b.alpha * estimate.x0 + kept * estimate.eps, fresh, at)

    return stateless(step, Order(1, "strong" if eta == 0.0 else "weak"))


def ddpm(variance: Literal["small", "large", "learned"] = "small") -> Sampler:
    """Ancestral sampling, Ho et al. 2020 (arXiv 2006.11239), eq. 6 and 7. One evaluation a step.

    variance: the posterior's (small, which is ddim(eta=1)), beta_t (large), both section 3.2; or learned, interpolated
    between the two by a LearnedEstimate, Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 15. No noise is added at the
    step to a clean end.
    """
    if variance == "small":
        return ddim(eta=1.0)
    if variance not in ("large", "learned"):
        raise InputError(f"variance: {variance!r} is not one of small, large, learned")

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        estimate = denoise(z, at.t)
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        kept, fresh = split_noise(a, b, 1.0)
        assert fresh is not None
        clean = b.sigma == 0
        large = jnp.maximum(a.sigma**2 - (a.alpha / b.alpha * b.sigma) ** 2, 0.0)
        if variance == "learned":
            if not isinstance(estimate, LearnedEstimate):
                raise ValueError("variance: 'learned' needs a denoiser that gives a LearnedEstimate")
            low = jnp.log(jnp.where(clean, 1.0, fresh**2))
            high = jnp.log(jnp.where(clean, 1.0, large))
            deviation = jnp.exp(0.5 * (estimate.variance * high + (1.0 - estimate.variance) * low))
        else:
            deviation = jnp.sqrt(large)
        return renew(b.alpha * estimate.x0 + kept * estimate.eps, jnp.where(clean, 0.0, deviation), at)

    return stateless(step, Order(1, "weak") if variance == "large" else None)


def euler_ancestral(eta: float = 1.0) -> Sampler:
    """k-diffusion's Euler ancestral: Euler down to sigma_down, then noise of sigma_up. It is ddim(eta).

    In y = z / alpha with rho = sigma / alpha both are y -> x0 + rho_down eps + rho_up n, with rho_up = eta rho_s
    sqrt(1 - rho_s^2 / rho_t^2), DDIM's eq. 16.
    """
    return ddim(eta)


def lcm(timestep_scaling: float = 10.0, sigma_data: float = 0.5) -> Sampler:
    """Multistep consistency sampling: jump to x0, add fresh noise. Luo et al. 2023 (arXiv 2310.04378), algorithm 3.

    The boundary condition (section 4.1 there; Song et al. 2023, arXiv 2303.01469, eq. 5) mixes z back in by c_skip =
    s^2 / (tau^2 + s^2), tau = timestep_scaling times the network's timestep, which matters at the cleanest steps only.
    """

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        x0 = denoise(z, at.t).x0
        # EDM's timestep is a logarithm, which the boundary condition doesn't mean.
        tau = timestep_scaling * (1000.0 * at.t if isinstance(at.schedule, EDM) else timestep(at.schedule, at.t))
        square = tau**2 + sigma_data**2
        x0 = tau / jnp.sqrt(square) * x0 + sigma_data**2 / square * z
        b = point(at.schedule, at.s)
        return renew(b.alpha * x0, b.sigma, at)

    return stateless(step, None)


def tcd(eta: float = 0.3, table: int | None = None) -> Sampler:
    """Trajectory consistency sampling: DDIM's step to (1 - eta) s, then noise up to s. Zheng et al. 2024 (arXiv
    2402.19159), strategic stochastic sampling, with gamma = eta in [0, 1].

    table: the number of training steps, if the intermediate time is to be rounded down to one of them, as the networks
    were trained; the sampler then ends at the table's first step, with no noise added there.
    """

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        estimate = denoise(z, at.t)
        if table is None:
            middle = (1.0 - eta) * at.s
        else:
            # Float times are a little off the table, which rounding down must not notice.
            middle = (jnp.floor((1.0 - eta) * jnp.round(at.s * table - 1.0) + 1e-4) + 1.0) / table
        m, b = point(at.schedule, middle), point(at.schedule, at.s)
        moved = m.alpha * estimate.x0 + m.sigma * estimate.eps
        if eta == 0.0:
            return moved
        share = b.alpha / m.alpha
        noisy = renew(share * moved, jnp.sqrt(jnp.maximum(b.sigma**2 - (share * m.sigma) ** 2, 0.0)), at)
        return jnp.where(at.index == at.count - 1, moved, noisy) if table is not None else noisy

    return stateless(step, None)


def euler_maruyama(
    diffusion: Literal["sigma", "linear", "constant", "sbdm", "decreasing", "increasing_decreasing"] = "sigma",
    norm: float = 1.0,
    last: Literal["mean", "tweedie", "euler", "none"] = "mean",
) -> Sampler:
    """Euler-Maruyama on the reverse SDE dz = (v - D score) dt + sqrt(2 D) dW. Ma et al. 2024 (arXiv 2401.08740).

    D = w / 2 there; `diffusion` names its shape in t and `norm` scales it, as in the authors' code: sigma, linear = t,
    constant = 1, sbdm = sigma sigma' - sigma^2 alpha' / alpha (the forward SDE's own, infinite at t = 1),
    decreasing, increasing_decreasing. last: how the last step of the grid goes: the drift without noise (mean),
    straight to the estimated x0 (tweedie), the ODE's step (euler), or like all others (none). SiT's grids end with a
    longer step of 0.04. One evaluation a step; weak order 1.
    """
    shapes: dict[str, Callable[[Array, Point, Array, Array], Array]] = {
        "sigma": lambda t, a, d_alpha, d_sigma: a.sigma,
        "linear": lambda t, a, d_alpha, d_sigma: t,
        "constant": lambda t, a, d_alpha, d_sigma: jnp.ones_like(t),
        "sbdm": lambda t, a, d_alpha, d_sigma: (
            a.sigma * d_sigma - a.sigma**2 * d_alpha / jnp.where(a.alpha == 0, jnp.inf, a.alpha)
        ),
        "decreasing": lambda t, a, d_alpha, d_sigma: 0.25 * (jnp.cos(jnp.pi * (1.0 - t)) + 1.0) ** 2,
        "increasing_decreasing": lambda t, a, d_alpha, d_sigma: jnp.sin(jnp.pi * t) ** 2,
    }
    if diffusion not in shapes:
        raise InputError(f"diffusion: {diffusion!r} is not one of {', '.join(shapes)}")
    if last not in ("mean", "tweedie", "euler", "none"):
        raise InputError(f"last: {last!r} is not one of mean, tweedie, euler, none")

    def step(denoise: Denoise, z: Array, at: Step) -> Array:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        one = jnp.ones_like(at.t)
        d_alpha, d_sigma = (jax.jvp(f, (at.t,), (one,))[1] for f in (at.schedule.alpha, at.schedule.sigma))
        estimate = denoise(z, at.t)
        velocity = d_alpha * estimate.x0 + d_sigma * estimate.eps
        # Rounding may take what is 0 at an end below it.
        rate = norm * jnp.maximum(shapes[diffusion](at.t, a, d_alpha, d_sigma), 0.0)
        dt = at.s - at.t
        mean = z + dt * (velocity + rate / a.sigma * estimate.eps)
        noisy = renew(mean, jnp.sqrt(-2.0 * rate * dt), at)
        endings = {
            "mean": mean,
            "tweedie": b.alpha * estimate.x0 + b.sigma * estimate.eps,
            "euler": z + dt * velocity,
            "none": noisy,
        }
        return jnp.where(at.index == at.count - 1, endings[last], noisy)

    return stateless(step, Order(1, "weak"))
