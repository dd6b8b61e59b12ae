"""Editing what is there already: wrappers of samplers and of denoisers. All latents are [b ...], channels last."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from ldm_jax.diffusion import grids
from ldm_jax.diffusion.precision import alike, checked, wide, widened
from ldm_jax.diffusion.prediction import Estimate, expand
from ldm_jax.diffusion.samplers.base import (
    Denoise,
    Sampler,
    State,
    StatefulDenoise,
    Step,
    example_keys,
    normal,
    point,
    run,
    sample,
    stateless,
    times_type,
)
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError

# Apart from the steps' folds, which are small numbers: noise that isn't a step's.
_START = 2**31 - 1
_KNOWN = 2**31 - 2


def strength_grid(grid: Float[Array, "n"], strength: float) -> Float[Array, "m"]:
    """The last part of a grid, with `strength` of its steps (at least one): how far back to the noise an edit goes."""
    if not 0.0 < strength <= 1.0:
        raise InputError(f"strength: {strength!r} is not in (0, 1]")
    grids.check(grid, repeats=True)
    count = grid.shape[0] - 1
    kept = max(1, min(count, int(count * strength + 1e-9)))
    return grid[count - kept :]


def add_noise(schedule: Schedule, x0: Float[Array, "b ..."], t: Array, key: Array) -> Float[Array, "b ..."]:
    """alpha(t) x0 + sigma(t) eps, eps of example i a function of its key alone; t a scalar or [b]."""
    eps = wide("x0", normal(example_keys(key, x0.shape[0]), x0, _START))
    clean = wide("x0", x0)
    return (expand(schedule.alpha(t), clean) * clean + expand(schedule.sigma(t), clean) * eps).astype(x0.dtype)


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
    z = add_noise(schedule, x0, jnp.asarray(part[0], times_type(x0)), key)
    return sample(denoise, sampler, schedule, part, z, key, **options)


def mask_for(mask: Any, known: Array) -> Array:
    """A mask as 0 (keep) and 1 (paint), or anything between, that broadcasts with known [b *space c].

    mask: bool, floats or whole numbers from 0 to 1, or uint8 from 0 to 255; of shape [b *space c] with a 1 where it is
    the same for all, or [*space], [b *space] or [*space c] where that can mean nothing else.

    Raises:
      InputError: fewer axes than space, a shape that does not fit or fits in two ways; other values.
    """
    given = tuple(jnp.shape(mask))
    readings = {
        known.ndim: {given},
        known.ndim - 1: {(*given, 1), (1, *given)},
        known.ndim - 2: {(1, *given, 1)},
    }.get(len(given), set())
    fitting = [shape for shape in readings if all(m in (1, n) for m, n in zip(shape, known.shape, strict=True))]
    if len(fitting) != 1:
        doubt = "may be meant in two ways" if fitting else "does not fit"
        raise InputError(f"mask: {list(given)} {doubt} for latents {list(known.shape)}; give it as [b *space 1]")
    (shape,) = fitting
    dtype = widened(known.dtype)
    values, bytes_ = jnp.asarray(mask).reshape(shape), jnp.asarray(mask).dtype == jnp.uint8
    if isinstance(values, Tracer):
        # Of a traced mask the values aren't known: 255 can only be a uint8's white.
        scale = jnp.where(values.max() > 1, 255.0, 1.0) if bytes_ else 1.0
        return values.astype(dtype) / jnp.asarray(scale, dtype)
    seen = np.asarray(values).astype(np.float64)
    full = 255.0 if bytes_ and seen.max(initial=0.0) > 1.0 else 1.0
    if not ((seen >= 0.0) & (seen <= full)).all():
        raise InputError("mask: it must be bool, from 0 to 1, or uint8 from 0 to 255; 1 (255) is where to paint")
    return jnp.asarray(seen / full, dtype)


def inpaint(
    sampler: Sampler,
    known: Float[Array, "b ..."],
    mask: Shaped[Array | np.ndarray, "..."],
    noise: Float[Array, "b ..."] | None = None,
) -> Sampler:
    """The sampler, with what is known put back after every step, at that step's noise level.

    Lugmayr et al. 2022 (arXiv 2201.09865), eq. 8; Song et al. 2021 (arXiv 2011.13456), appendix I.2. known: clean
    latents. mask: 1 where to paint, 0 where known, see `mask_for`. noise: the same at every step and none at the last,
    as diffusers has it; None: fresh, at the level that each step ends at.

    Raises:
      InputError: known is not of floats, or the mask none for it.
    """
    known = wide("known", known)
    mask = mask_for(mask, known)

    def step(denoise: Denoise, z: Array, state: State, at: Step) -> tuple[Array, State]:
        alike(z=z, known=known)
        z, state = sampler.step(denoise, z, state, at)
        if noise is None:
            return _put_back(z, known, mask, at), state
        level = at.schedule.alpha(at.s) * known + at.schedule.sigma(at.s) * noise
        return mask * z + (1.0 - mask) * jnp.where(at.index == at.count - 1, known, level), state

    return sampler._replace(step=step, order=None)


def _put_back(z: Array, known: Array, mask: Array, at: Step) -> Array:
    level = at.schedule.alpha(at.s) * known + at.schedule.sigma(at.s) * at.noise(_KNOWN)
    return mask * z + (1.0 - mask) * level


def repaint_grid(grid: Float[Array, "n"], jump: int = 10, resample: int = 10) -> Float[Array, "m"]:
    """RePaint's walk over the grid's times, up and down: after every `jump` steps down it goes `jump` up again.

    Until each stretch was walked `resample` times; Lugmayr et al. 2022 (arXiv 2201.09865), "jump length".
    """
    if jump < 1 or resample < 1:
        raise InputError(f"jump, resample: {jump!r}, {resample!r} are not positive integers")
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
    mask: Shaped[Array | np.ndarray, "..."],
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
        raise InputError("denoise: a StatefulDenoise has no meaning on RePaint's way up")
    grids.check(grid)
    alike(z=z, known=known)
    known = wide("known", known)
    mask = mask_for(mask, known)

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
    > 0 repairs that by so many fixed-point iterations a step, one evaluation each (after Pan et al. 2023, arXiv
    2309.04907).
    The first evaluation is at the grid's last time: where that is 0, kinds that say nothing there (x0) want a small
    time instead.
    """
    if refine < 0:
        raise InputError(f"refine: {refine!r} must be at least 0")
    grids.check(grid, repeats=True)

    def step(evaluate: Denoise, z: Array, at: Step) -> Array:
        a, b = point(at.schedule, at.t), point(at.schedule, at.s)
        first = evaluate(z, at.t)
        guess = b.alpha * first.x0 + b.sigma * first.eps
        # The guess is moved by what the sampler's step from it misses z by. Pan et al. solve for z_b with eps alone,
        # which tells nothing at pure noise, where z_b is eps whatever it is.
        norms = [jnp.sqrt(jnp.square(end.alpha) + jnp.square(end.sigma)) for end in (a, b)]
        for _ in range(refine):
            down = evaluate(guess.astype(z.dtype), at.s)
            guess = guess + norms[1] / norms[0] * (z - a.alpha * down.x0 - a.sigma * down.eps)
        return guess

    return run(denoise, stateless(step, None), schedule, jnp.asarray(grid)[::-1], z, jax.random.key(0))


def slerp(a: Float[Array, "b ..."], b: Float[Array, "b ..."], fraction: float | Array) -> Float[Array, "b ..."]:
    """Spherical interpolation of noise, example by example: a at fraction 0, b at 1; fraction a number or [b].

    Shoemake 1985; for latents White 2016 (arXiv 1609.04468), section 2.1. It keeps the norm that Gaussian noise has
    and that a straight line through it loses. Near-parallel pairs are interpolated straight.
    """
    alike(a=a, b=b)
    dtype, a, b = a.dtype, wide("a", a), wide("b", b)
    axes = tuple(range(1, a.ndim))
    fraction = expand(jnp.asarray(fraction), a)
    norms = [jnp.sqrt((x**2).sum(axes, keepdims=True)) for x in (a, b)]
    cosine = (a * b).sum(axes, keepdims=True) / jnp.maximum(norms[0] * norms[1], 1e-12)
    straight = jnp.abs(cosine) > 0.9995
    angle = jnp.arccos(jnp.where(straight, 0.0, cosine))
    on_a, on_b = jnp.sin((1.0 - fraction) * angle), jnp.sin(fraction * angle)
    round_ = (on_a * a + on_b * b) / jnp.sin(angle)
    return jnp.where(straight, (1.0 - fraction) * a + fraction * b, round_).astype(dtype)


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

    Raises:
      InputError: a border below 0; later, a window or a stride of less than 1, or for another number of axes than z
        has, or a stride that would leave gaps between the windows.
    """
    if not 0.0 <= border < float("inf"):
        raise InputError(f"border: {border!r} must be a finite number of at least 0")

    def windows(spatial: tuple[int, ...]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        size = (window,) * len(spatial) if isinstance(window, int) else window
        hop = (stride,) * len(spatial) if isinstance(stride, int) else stride
        if not len(size) == len(hop) == len(spatial):
            raise InputError(f"window, stride: {size}, {hop} must have a number for each of {len(spatial)} axes")
        if not all(1 <= h <= s for s, h in zip(size, hop, strict=True)):
            raise InputError(f"window, stride: {size}, {hop} must be at least 1, and no stride longer than its window")
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
                # Never 0, or what no other window covers would be divided by it.
                total = total * np.maximum(np.exp(-0.5 * (place / border) ** 2), 1e-6).reshape(shape)
        return total

    def wrapped(z: Float[Array, "b ..."], t: Array, /) -> Estimate:
        size, starts = windows(checked("z", z).shape[1:-1])
        crops = jnp.stack(
            [z[(slice(None), *(slice(p, p + s) for p, s in zip(at, size, strict=True)))] for at in starts]
        )

        def one(crop: Array) -> Estimate:
            return Estimate(*denoise(crop, t)[:2])

        parts = jax.vmap(one)(crops) if batched else jax.lax.map(one, crops)
        dtypes = [part.dtype for part in parts]
        parts = [wide("estimate", part) for part in parts]
        weight = jnp.asarray(weights(size), parts[0].dtype)[None, ..., None]
        total = jnp.zeros((1, *z.shape[1:-1], 1), weight.dtype)
        sums = [jnp.zeros(z.shape, weight.dtype), jnp.zeros(z.shape, weight.dtype)]
        for i, at in enumerate(starts):
            where = (slice(None), *(slice(p, p + s) for p, s in zip(at, size, strict=True)))
            total = total.at[where].add(weight)
            sums = [own.at[where].add(weight * part[i]) for own, part in zip(sums, parts, strict=True)]
        return Estimate(*((own / total).astype(dtype) for own, dtype in zip(sums, dtypes, strict=True)))

    return wrapped
