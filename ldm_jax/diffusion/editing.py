"""Editing what is there already: wrappers of samplers and of denoisers. All latents are [b ...], channels last."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ldm_jax.diffusion.prediction import Estimate, expand
from ldm_jax.diffusion.samplers.base import (
    Denoise,
    Sampler,
    State,
    StatefulDenoise,
    Step,
    advance,
    example_keys,
    normal,
    point,
    run,
    sample,
    stateless,
)
from ldm_jax.diffusion.schedules import Schedule

# Apart from the steps' folds, which are small numbers: noise that isn't a step's.
_START = 2**31 - 1
_KNOWN = 2**31 - 2


def strength_grid(grid: Float[Array, "n"], strength: float) -> Float[Array, "m"]:
    """The last part of a grid, with `strength` of its steps (at least one): how far back to the noise an edit goes."""
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength: {strength!r} is not in (0, 1]")
    count = grid.shape[0] - 1
    kept = max(1, min(count, int(count * strength + 1e-9)))
    return grid[count - kept :]


def add_noise(schedule: Schedule, x0: Float[Array, "b ..."], t: Array, key: Array) -> Float[Array, "b ..."]:
    """alpha(t) x0 + sigma(t) eps, eps of example i a function of its key alone; t a scalar or [b]."""
    eps = normal(example_keys(key, x0.shape[0]), x0, _START)
    return expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps


def image_to_image(
    denoise: Denoise | StatefulDenoise,
    sampler: Sampler,
    schedule: Schedule,
    grid: Float[Array, "n"],
    x0: Float[Array, "b ..."],
    key: Array,
    strength: float = 0.8,
    **options: Any,
) -> Any:
    """SDEdit: noise x0 up to where `strength` of the grid's steps are left, and sample from there.

    Meng et al. 2021 (arXiv 2108.01073), algorithm 1. strength in (0, 1]. options: as in `sample`.
    """
    part = strength_grid(grid, strength)
    z = add_noise(schedule, x0, jnp.asarray(part[0], np.promote_types(x0.dtype, np.float32)), key)
    return sample(denoise, sampler, schedule, part, z.astype(x0.dtype), key, **options)


def inpaint(sampler: Sampler, known: Float[Array, "b ..."], mask: Float[Array, "..."]) -> Sampler:
    """The sampler, with what is known put back after every step, at that step's noise level.

    Lugmayr et al. 2022 (arXiv 2201.09865), eq. 8; Song et al. 2021 (arXiv 2011.13456), appendix I.2. known: clean
    latents. mask, of a shape that broadcasts with z: 1 where to paint, 0 where known.
    """

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        z, state = sampler.step(denoise, z, state, at)
        return _put_back(z, known, mask, at), state

    return Sampler(sampler.init, step, evaluations=sampler.evaluations)


def _put_back(z: Array, known: Array, mask: Array, at: Step) -> Array:
    level = at.schedule.alpha(at.s) * known + at.schedule.sigma(at.s) * at.noise(_KNOWN)
    return mask * z + (1.0 - mask) * level


def repaint_grid(grid: Float[Array, "n"], jump: int = 10, resample: int = 10) -> Float[Array, "m"]:
    """RePaint's walk over the grid's times, up and down: after every `jump` steps down it goes `jump` up again.

    Until each stretch was walked `resample` times; Lugmayr et al. 2022 (arXiv 2201.09865), "jump length".
    """
    if jump < 1 or resample < 1:
        raise ValueError(f"jump, resample: {jump!r}, {resample!r} are not positive integers")
    left = grid.shape[0] - 1
    again = dict.fromkeys(range(0, left - jump, jump), resample - 1)
    walk = [left]
    while left > 0:
        left -= 1
        walk.append(left)
        if again.get(left, 0) > 0:
            again[left] -= 1
            for _ in range(jump):
                left += 1
                walk.append(left)
    return jnp.asarray(grid)[np.array(grid.shape[0] - 1 - np.array(walk))]


def repaint(
    denoise: Denoise,
    sampler: Sampler,
    schedule: Schedule,
    grid: Float[Array, "n"],
    z: Float[Array, "b ..."],
    key: Array,
    known: Float[Array, "b ..."],
    mask: Float[Array, "..."],
    jump: int = 10,
    resample: int = 10,
    **options: Any,
) -> Any:
    """Inpainting by RePaint, Lugmayr et al. 2022 (arXiv 2201.09865), algorithm 1, with jumps of several steps.

    Like `inpaint`, but going back up (forward diffusion) and down again lets the painted part come to terms with the
    known one. The sampler must remember nothing between steps (ddpm, ddim, ...). options: as in `sample`, but no
    observe. Steps up evaluate nothing.
    """
    if isinstance(denoise, StatefulDenoise):
        raise ValueError("denoise: a StatefulDenoise has no meaning on RePaint's way up")

    def step(evaluate: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)

        def up(z: Array) -> Array:
            keep = b.alpha / a.alpha
            return (keep * z + jnp.sqrt(jnp.maximum(b.sigma**2 - (keep * a.sigma) ** 2, 0.0)) * at.noise(0)).astype(
                z.dtype
            )

        def down(z: Array) -> Array:
            moved, _ = sampler.step(evaluate, z, state, at)
            return _put_back(moved, known, mask, at).astype(z.dtype)

        return jax.lax.cond(at.s > at.t, up, down, z), state

    return run(denoise, Sampler(sampler.init, step), schedule, repaint_grid(grid, jump, resample), z, key, **options)


def invert(
    denoise: Denoise, schedule: Schedule, grid: Float[Array, "n"], z: Float[Array, "b ..."], refine: int = 0
) -> Float[Array, "b ..."]:
    """DDIM inversion: from z at the grid's end up to its start, so that `sample` with ddim() leads back to z.

    Song et al. 2020 (arXiv 2010.02502), section 4.3; Mokady et al. 2022 (arXiv 2211.09794), section 3. grid: the
    descending one of the sampler. The step up needs the prediction at its end, and takes the one at its start; refine
    > 0 repairs that by so many fixed-point iterations a step, one evaluation each (Pan et al. 2023, arXiv 2309.04907).
    The first evaluation is at the grid's last time: where that is 0, kinds that say nothing there (x0) want a small
    time instead.
    """

    def step(evaluate: Denoise, z: Array, at: Step) -> Array:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        first = evaluate(z, at.t)
        guess = b.alpha * first.x0 + b.sigma * first.eps
        for _ in range(refine):
            guess = advance("eps", z, evaluate(guess.astype(z.dtype), at.s).eps, a, b)
        return guess

    return run(denoise, stateless(step, None), schedule, jnp.asarray(grid)[::-1], z, jax.random.key(0))


def slerp(a: Float[Array, "b ..."], b: Float[Array, "b ..."], fraction: float | Array) -> Float[Array, "b ..."]:
    """Spherical interpolation of noise, example by example: a at fraction 0, b at 1; fraction a number or [b].

    Shoemake 1985; for latents White 2016 (arXiv 1609.04468), section 2.1. It keeps the norm that Gaussian noise has
    and that a straight line through it loses. Near-parallel pairs are interpolated straight.
    """
    axes = tuple(range(1, a.ndim))
    fraction = expand(jnp.asarray(fraction), a)
    norms = [jnp.sqrt((x**2).sum(axes, keepdims=True)) for x in (a, b)]
    cosine = (a * b).sum(axes, keepdims=True) / jnp.maximum(norms[0] * norms[1], 1e-12)
    straight = jnp.abs(cosine) > 0.9995
    angle = jnp.arccos(jnp.where(straight, 0.0, cosine))
    on_a, on_b = jnp.sin((1.0 - fraction) * angle), jnp.sin(fraction * angle)
    round_ = (on_a * a + on_b * b) / jnp.sin(angle)
    return jnp.where(straight, (1.0 - fraction) * a + fraction * b, round_)


def tiled(
    denoise: Denoise,
    window: int | tuple[int, ...],
    stride: int | tuple[int, ...],
    batched: bool = True,
    border: float = 0.0,
) -> Denoise:
    """MultiDiffusion: denoise windows of the training size and average, for latents larger than that.

    Bar-Tal et al. 2023 (arXiv 2302.08113), eq. 5. window, stride: in latent pixels, one number or one a spatial axis;
    the last window of an axis is moved in to fit. batched: all windows in one vmap, or one after the other. border > 0
    weights a window's pixels down towards its edge by a Gaussian of that width (a fraction of the window; 0.25, say),
    which hides the seams of few windows.
    """

    def windows(spatial: tuple[int, ...]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        size = (window,) * len(spatial) if isinstance(window, int) else window
        hop = (stride,) * len(spatial) if isinstance(stride, int) else stride
        size = tuple(min(s, n) for s, n in zip(size, spatial, strict=True))
        starts = [sorted({*range(0, n - s + 1, h), n - s}) for n, s, h in zip(spatial, size, hop, strict=True)]
        return size, list(itertools.product(*starts))

    def weights(size: tuple[int, ...]) -> np.ndarray:
        total = np.ones(size)
        if border > 0:
            for axis, n in enumerate(size):
                place = (np.arange(n) + 0.5) / n - 0.5
                shape = [1] * len(size)
                shape[axis] = n
                total = total * np.exp(-0.5 * (place / border) ** 2).reshape(shape)
        return total

    def wrapped(z: Float[Array, "b ..."], t: Array, /) -> Estimate:
        size, starts = windows(z.shape[1:-1])
        crops = jnp.stack(
            [z[(slice(None), *(slice(p, p + s) for p, s in zip(at, size, strict=True)))] for at in starts]
        )

        def one(crop: Array) -> Estimate:
            return Estimate(*denoise(crop, t)[:2])

        parts = jax.vmap(one)(crops) if batched else jax.lax.map(one, crops)
        weight = jnp.asarray(weights(size), z.dtype)[None, ..., None]
        total = jnp.zeros((1, *z.shape[1:-1], 1), z.dtype)
        sums = [jnp.zeros_like(z), jnp.zeros_like(z)]
        for i, at in enumerate(starts):
            where = (slice(None), *(slice(p, p + s) for p, s in zip(at, size, strict=True)))
            total = total.at[where].add(weight)
            sums = [own.at[where].add(weight * part[i]) for own, part in zip(sums, parts, strict=True)]
        return Estimate(*(own / total for own in sums))

    return wrapped
