"""From what a user gives to what a denoiser is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from ldm_jax.conditions import Size, join
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning

if TYPE_CHECKING:
    from ldm_jax.pipeline.model import LatentDiffusion


class GuidedConditioning(NamedTuple):
    """What the denoiser is told, arrays [m ...], what guidance leads away from (None: no guidance), and scales [g]."""

    cond: Conditioning
    null: Conditioning | None
    guidance: Array


def tell(
    model: LatentDiffusion,
    size: Size,
    cond: Conditioning | None,
    null: Conditioning | None,
    guidance: Any,
    given: Mapping[str, Any],
) -> GuidedConditioning:
    """The model's conditions asked for what was given; cond and null stand for what they would say.

    Raises:
      InputError: something is given that no condition takes, is missing, or is wrong; guidance of a model that was
        trained with its conditions alone.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _refuse_unknown(model, given)
    scales = _scales(model.sampling.guidance if guidance is None else guidance)
    # A distilled network is told the scale, and evaluated once.
    embedded = bool(getattr(getattr(model.denoiser, "config", None), "guidance_dim", 0))
    guided = not embedded and (isinstance(scales, Tracer) or bool(np.any(np.asarray(scales) != 1.0)))
    parts, nulls = [], []
    for condition in model.conditions:
        asked = condition.ask(size, cond=cond, **{k: v for k, v in given.items() if k in condition.asks})
        params = model.condition_params.get(condition.name, {})
        parts.append(condition.apply(params, asked.arrays, None))
        if not guided:
            continue
        kept = condition.dropout == 0.0
        nothing = asked.arrays if kept else condition.null(asked.arrays) if asked.null is None else asked.null
        nulls.append(condition.apply(params, nothing, None))
    if guided and model.conditions and null is None and all(c.dropout == 0.0 for c in model.conditions):
        raise InputError(
            f"guidance: {np.asarray(scales).ravel()[0]:g} must be 1, for this model never saw an example without its "
            "condition (dropout 0)"
        )
    whole = _over(join(parts), cond)
    if embedded:
        whole, scales = whole._replace(guidance=scales), jnp.ones_like(scales)
    context = getattr(model.denoiser.config, "context_dim", 0) if model.denoiser else 0
    if context and whole.context is None:
        raise InputError("prompt: this model draws from texts; give one (or cond with its embedding)")
    if not guided or (not nulls and null is None):
        if guided and cond is not None and cond.context is not None:
            raise InputError("null: without a text encoder guidance needs the embedding of an empty text")
        return GuidedConditioning(whole, None, scales)
    return GuidedConditioning(whole, _over(_over(whole, join(nulls)), null), scales)


def told_of(model: LatentDiffusion, arrays: Mapping[str, Mapping[str, Any]]) -> GuidedConditioning:
    """What the denoiser is told by the conditions' arrays [m ...], by their names, at the model's own guidance."""
    scales = _scales(model.sampling.guidance)
    parts, nulls = [], []
    for condition in model.conditions:
        params, own = model.condition_params.get(condition.name, {}), arrays[condition.name]
        parts.append(condition.apply(params, own, None))
        nulls.append(condition.apply(params, own if condition.dropout == 0.0 else condition.null(own), None))
    guided = bool(np.any(np.asarray(scales) != 1.0)) and any(c.dropout != 0.0 for c in model.conditions)
    return GuidedConditioning(join(parts), join(nulls) if guided else None, scales)


def _over(below: Conditioning, above: Conditioning | None) -> Conditioning:
    """`below` with the parts that `above` has in place of its own."""
    if above is None:
        return below
    return below._replace(**{name: value for name, value in above._asdict().items() if value is not None})


def _scales(guidance: Any) -> Array:
    if isinstance(guidance, Tracer):
        return guidance.reshape(-1)
    try:
        scales = np.asarray(guidance, np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError(f"guidance: {guidance!r} must be a number, or one an image") from error
    if not np.isfinite(scales).all():
        raise InputError(f"guidance: {guidance} must be finite")
    return jnp.asarray(scales)


def _refuse_unknown(model: LatentDiffusion, given: Mapping[str, Any]) -> None:
    known = [name for condition in model.conditions for name in condition.asks]
    for name in given:
        if name in known:
            continue
        takes = ", ".join(known) or "nothing: it is unconditional"
        if name in ("prompts", "negative"):
            what = "; it takes labels" if model.num_classes else " and no classes"
            raise InputError(f"prompt: this model has no text encoder{what}")
        if name == "labels":
            raise InputError("label: this model takes prompts" if model.text else "label: this model is unconditional")
        raise InputError(f"{name}: this model takes {takes}")


def number_of(num: Any, latents: Any, asked: GuidedConditioning) -> int:
    """How many images: as asked, or as many as there are things to draw from."""
    if num is None:
        rows = [len(leaf) for leaf in jax.tree.leaves(asked.cond)]
        num = len(latents) if latents is not None else max(rows, default=len(asked.guidance))
    if type(num) is not int or num < 1:
        raise InputError(f"num: {num} must be a whole number of at least 1")
    if latents is not None and len(latents) != num:
        raise InputError(f"latents: {len(latents)} must be as many as images, {num}")
    if len(asked.guidance) not in (1, num):
        raise InputError(f"guidance: {len(asked.guidance)} scales must be one, or one for each of {num} images")
    return num
