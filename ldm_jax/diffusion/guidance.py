"""Guidance: functions from denoise to denoise.

`branches` turns a conditional denoiser into a function that gives the conditional and the unconditional estimate at
once; the rules (`classifier_free`, ...) turn such a pair into the plain `denoise(z, t)` that samplers take. Scales may
be numbers or arrays [b], traced or not: one compilation serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from ldm_jax.diffusion.precision import alike, checked, wide
from ldm_jax.diffusion.prediction import AnyEstimate, Estimate, estimate, expand, target
from ldm_jax.diffusion.samplers import Denoise, StatefulDenoise
from ldm_jax.diffusion.schedules import Schedule
from ldm_jax.errors import InputError

Scale: TypeAlias = float | Float[Array, "*b"]


class Branches(NamedTuple):
    """The estimates with and without the condition."""

    conditional: AnyEstimate
    unconditional: AnyEstimate


@runtime_checkable
class Pair(Protocol):
    """A denoiser with and without its condition: (z [b ...], t scalar or [b]) -> Branches."""

    def __call__(self, z: Array, t: Array, /) -> Branches:
        """Both estimates at z and t."""
        ...


@runtime_checkable
class ConditionalDenoise(Protocol):
    """A denoiser that takes its condition: (z [b ...], t scalar or [b], a pytree of arrays [b ...]) -> Estimate."""

    def __call__(self, z: Array, t: Array, cond: Any, /) -> AnyEstimate:
        """The estimate of x0 and eps at z and t, each of z's shape."""
        ...


def branches(denoise: ConditionalDenoise, cond: Any, null: Any, batched: bool = True) -> Pair:
    """(z, t) -> Branches, from denoise(z, t, cond) and the two conditions, pytrees of arrays [b ...].

    batched: both branches in one call on 2 b examples (faster on accelerators); otherwise in two calls (less memory).
    """

    def pair(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> Branches:
        if not batched:
            return Branches(denoise(z, t, cond), denoise(z, t, null))
        both = jax.tree.map(_joined, cond, null)
        twice = jnp.concatenate([t, t]) if jnp.ndim(t) else t
        out = denoise(jnp.concatenate([z, z]), twice, both)
        return Branches(*(type(out)(*half) for half in zip(*(jnp.split(part, 2) for part in out), strict=True)))

    return pair


def _joined(a: Array | np.ndarray, b: Array | np.ndarray) -> Array:
    return jnp.concatenate([a, b])


def _checked(scale: Any, interval: tuple[float, float] = (0.0, 1.0)) -> Any:
    """The scale; nothing is known, so nothing said, about a traced one.

    Raises:
      InputError: it is not finite, or the interval is not two rising times in [0, 1].
    """
    if not isinstance(scale, Tracer) and not np.isfinite(np.asarray(scale, np.float64)).all():
        raise InputError(f"scale: {scale} must be finite")
    if not 0.0 <= interval[0] <= interval[1] <= 1.0:
        raise InputError(f"interval: {interval} must be two rising times in [0, 1]")
    return scale


def _wide(estimate: Any) -> Any:
    """An estimate in float32 at least: sums of squares leave the range of short floats."""
    return type(estimate)(*(wide("estimate", part) for part in estimate))


def _narrow(estimate: Any, like: Any) -> Any:
    return type(estimate)(*(part.astype(own.dtype) for part, own in zip(estimate, like, strict=True)))


def _inside(interval: tuple[float, float], t: Float[Array, "*b"]) -> Array:
    return (t >= interval[0]) & (t <= interval[1])


def _where(condition: Array, a: Any, b: Any, z: Array) -> Array:
    """a or b by a condition [*b]."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (z.ndim - condition.ndim)), a, b)


def _apart(a: AnyEstimate, b: AnyEstimate, scale: Array, channels: int | None) -> AnyEstimate:
    """b + scale (a - b) in x0 and eps; in channels past the first few, and in anything learned, it is a."""
    alike(conditional=a.x0, unconditional=b.x0)

    def mix(c: Array, u: Array) -> Array:
        guided = u + scale * (c - u)
        if channels is None or channels >= c.shape[-1]:
            return guided
        return jnp.concatenate([guided[..., :channels], c[..., channels:]], axis=-1)

    return a._replace(x0=mix(a.x0, b.x0), eps=mix(a.eps, b.eps))


def _coefficients(schedule: Schedule | None, rule: str, t: Array, z: Array) -> tuple[Array, Array]:
    if schedule is None:
        raise InputError(f"schedule: None, but {rule} needs the noise level")
    return expand(schedule.alpha(t), z), expand(schedule.sigma(t), z)


def classifier_free(
    pair: Pair,
    scale: Scale,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: Scale = 0.0,
    *,
    channels: int | None = None,
    schedule: Schedule | None = None,
) -> Denoise:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional); scale 1 is no guidance.

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, with scale = w + 1. scale: a number or [b], traced or not. interval:
    the times in which guidance acts (Kynkäänniemi et al. 2024, arXiv 2404.07724, section 3); outside it the scale is 1.
    Guiding eps or x0 is the same thing, as the two are affine in each other at fixed z.

    rescale: by how much, in [0, 1], v's standard deviation is brought back to the conditional one's, Lin et al. 2023
    (arXiv 2305.08891), section 3.4; needs the schedule. channels: guide the first few only, as DiT, SiT and
    LightningDiT do with three.
    """
    plain = isinstance(rescale, int | float) and rescale == 0
    if not plain and schedule is None:
        raise InputError(f"schedule: None, but rescale = {rescale} needs the noise level")
    if not isinstance(rescale, Tracer) and not ((np.asarray(rescale) >= 0) & (np.asarray(rescale) <= 1)).all():
        raise InputError(f"rescale: {rescale} must be in [0, 1]")
    _checked(scale, interval)

    def denoise(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> AnyEstimate:
        given, z = pair(checked("z", z), t), wide("z", z)
        conditional, unconditional = (_wide(branch) for branch in given)
        weight = expand(jnp.where(_inside(interval, t), scale, 1.0), z)
        guided = _apart(conditional, unconditional, weight, channels)
        if plain:
            return _narrow(guided, given.conditional)
        alpha, sigma = _coefficients(schedule, "rescale", t, z)
        wanted = target("v", conditional.x0, conditional.eps, alpha, sigma)
        v = target("v", guided.x0, guided.eps, alpha, sigma)
        axes = tuple(range(1, z.ndim))
        ratio = wanted.std(axes, keepdims=True) / jnp.maximum(v.std(axes, keepdims=True), 1e-12)
        share = expand(jnp.asarray(rescale), z)
        x0, eps = estimate("v", v * (1.0 + share * (ratio - 1.0)), z, alpha, sigma)
        return _narrow(guided._replace(x0=x0, eps=eps), given.conditional)

    return denoise


def cfg_zero_star(
    pair: Pair,
    scale: Scale,
    schedule: Schedule,
    zero_init: float = 0.04,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Denoise:
    """CFG-Zero*: the unconditional velocity is first scaled to fit the conditional one; the first steps stand still.

    Fan et al. 2025 (arXiv 2503.18886), algorithm 1: s = <v_c, v_u> / |v_u|^2, then s v_u + scale (v_c - s v_u). The
    velocity eps - x0 is 0 for t > 1 - zero_init (the paper's first 4% of the steps). For flow models.
    """
    _checked(scale, interval)

    def denoise(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> AnyEstimate:
        given, z = pair(checked("z", z), t), wide("z", z)
        conditional, unconditional = (_wide(branch) for branch in given)
        alike(conditional=conditional.x0, unconditional=unconditional.x0)
        alpha, sigma = _coefficients(schedule, "cfg_zero_star", t, z)
        v_c, v_u = (branch.eps - branch.x0 for branch in (conditional, unconditional))
        axes = tuple(range(1, z.ndim))
        fit = (v_c * v_u).sum(axes, keepdims=True) / jnp.maximum((v_u**2).sum(axes, keepdims=True), 1e-12)
        v = fit * v_u + expand(jnp.asarray(scale), z) * (v_c - fit * v_u)
        v = _where(_inside(interval, t), v, v_c, z)
        v = _where(t > 1.0 - zero_init, 0.0, v, z)
        x0, eps = estimate("flow", v, z, alpha, sigma)
        return _narrow(conditional._replace(x0=x0, eps=eps), given.conditional)

    return denoise


def apg(
    pair: Pair,
    scale: Scale,
    schedule: Schedule,
    eta: float = 0.0,
    norm_threshold: float = 2.5,
    momentum: float = -0.75,
    interval: tuple[float, float] = (0.0, 1.0),
) -> StatefulDenoise:
    """Adaptive projected guidance, against the oversaturation of large scales: a StatefulDenoise for `sample`.

    Sadat et al. 2024 (arXiv 2410.02416), algorithm 1, on x0: the difference of the branches is averaged over the steps
    with a (negative) momentum, its norm held below norm_threshold (0: not at all), and of its component along the
    conditional x0 only eta is kept. A sampler of several evaluations a step moves the average at each of them. eta = 1,
    norm_threshold = 0 and momentum = 0 is classifier_free.
    """
    _checked(scale, interval)

    def apply(z: Array, t: Array, average: Array) -> tuple[AnyEstimate, Array]:
        given, z = pair(checked("z", z), t), wide("z", z)
        conditional, unconditional = (_wide(branch) for branch in given)
        alike(conditional=conditional.x0, unconditional=unconditional.x0)
        alpha, sigma = _coefficients(schedule, "apg", t, z)
        axes = tuple(range(1, z.ndim))
        average = conditional.x0 - unconditional.x0 + momentum * average
        change = average
        if norm_threshold > 0:
            norm = jnp.sqrt((change**2).sum(axes, keepdims=True))
            change = change * jnp.minimum(1.0, norm_threshold / jnp.maximum(norm, 1e-12))
        square = jnp.maximum((conditional.x0**2).sum(axes, keepdims=True), 1e-12)
        along = (change * conditional.x0).sum(axes, keepdims=True) / square * conditional.x0
        change = change - along + eta * along
        weight = expand(jnp.where(_inside(interval, t), jnp.asarray(scale) - 1.0, 0.0), z)
        clean = sigma == 0
        ratio = jnp.where(clean, 0.0, alpha / jnp.where(clean, 1.0, sigma))
        guided = conditional._replace(
            x0=conditional.x0 + weight * change, eps=conditional.eps - ratio * weight * change
        )
        return _narrow(guided, given.conditional), average

    def init(z: Array) -> Array:
        return jnp.zeros_like(wide("z", z))

    return StatefulDenoise(init, apply)


def autoguidance(
    denoise: Denoise, weaker: Denoise, scale: Scale, interval: tuple[float, float] = (0.0, 1.0)
) -> Denoise:
    """Guidance by a worse version of the same model: weaker + scale (denoise - weaker).

    Karras et al. 2024 (arXiv 2406.02507), section 4: a smaller or less trained network with the same condition.
    """

    def pair(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> Branches:
        return Branches(denoise(z, t), weaker(z, t))

    return classifier_free(pair, scale, interval)


def classifier(
    denoise: Denoise,
    log_probability: Callable[[Array, Array], Float[Array, "b"]],
    scale: Scale,
    schedule: Schedule,
) -> Denoise:
    """Classifier guidance: eps - scale sigma grad_z log p(y | z), Dhariwal & Nichol 2021 (arXiv 2105.05233), eq. 14.

    log_probability: (z [b ...], t) -> [b], of the wanted class in noisy z, or any other reward. x0 moves along by
    scale sigma^2 / alpha times the gradient; where alpha = 0 it stays.
    """
    _checked(scale)

    def guided(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> AnyEstimate:
        given = denoise(checked("z", z), t)
        plain = _wide(given)

        def total(z: Array) -> Array:
            return log_probability(z, t).sum()

        gradient = wide("gradient", jax.grad(total)(z))
        alpha, sigma = _coefficients(schedule, "classifier", t, gradient)
        step = expand(jnp.asarray(scale), gradient) * sigma * gradient
        pure = alpha == 0
        moved = jnp.where(pure, 0.0, sigma / jnp.where(pure, 1.0, alpha)) * step
        return _narrow(plain._replace(x0=plain.x0 + moved, eps=plain.eps - step), given)

    return guided


def compose(unconditional: Denoise, conditionals: Sequence[Denoise], scales: Sequence[Scale]) -> Denoise:
    """Several conditions at once: unconditional + sum_i scale_i (conditional_i - unconditional).

    Liu et al. 2022 (arXiv 2206.01714), conjunction; a negative scale is a negation.
    """
    if len(conditionals) != len(scales):
        raise InputError(f"scales: {len(scales)} of them for {len(conditionals)} conditionals")
    for scale in scales:
        _checked(scale)

    def denoise(z: Float[Array, "b ..."], t: Float[Array, "*b"], /) -> AnyEstimate:
        base = unconditional(checked("z", z), t)
        x0, eps = base.x0, base.eps
        for one, scale in zip(conditionals, scales, strict=True):
            weight, own = expand(jnp.asarray(scale), z), one(z, t)
            alike(unconditional=base.x0, conditional=own.x0)
            x0, eps = x0 + weight * (own.x0 - base.x0), eps + weight * (own.eps - base.eps)
        return Estimate(x0, eps)

    return denoise
