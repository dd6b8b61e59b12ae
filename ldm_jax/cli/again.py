"""A picture tells how it was drawn, and is drawn once more from that."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli import version
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.cli.parsing import Parser
    from ldm_jax.pipeline import LatentDiffusion

WHAT = ("label", "labels", "prompt", "prompts_file")
"""What is drawn; naming one of them replaces whatever the picture says."""


IMAGES = ("image", "mask", "upscale", "paired", "edges", "edges_of")
FILES = (*IMAGES, "lora", "embedding")
"""Options that name files."""


def _words(given: Sequence[object] | None) -> list[str] | None:
    return [str(word) for word in given] if given else None


def settings_of(
    options: argparse.Namespace,
    model: LatentDiffusion,
    labels: Sequence[int] | None,
    prompts: Sequence[str] | None,
    num: int,
) -> dict[str, Any]:
    """Everything that the images depend on, for their files; the model's own settings are named, too."""
    from ldm_jax.pipeline import name_of

    sampling = model.sampling
    settings = {
        "model": str(options.model),
        "labels": None if labels is None else list(labels),
        "prompts": None if prompts is None else list(prompts),
        "negative": options.negative,
        **{name: _words(getattr(options, name)) for name in FILES},
        "strength": options.strength,
        "paste": options.paste,
        "noise_level": options.noise_level,
        "layout": None if options.layout is None else str(options.layout),
        "variant": options.variant,
        "like": None if options.like is None else str(options.like),
        "no_ema": options.no_ema or None,
        "seed": options.seed,
        "first": options.first,
        "num": num,
        "steps": sampling.steps if options.steps is None else options.steps,
        "guidance": float(sampling.guidance if options.guidance is None else options.guidance),
        "sampler": options.sampler or name_of(sampling.sampler),
        "height": options.height,
        "width": options.width,
        "dtype": options.dtype,
        "software": f"ldm_jax {version()}",
    }
    return {name: value for name, value in settings.items() if value is not None}


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(type(item) is kind for item in value)


# The settings that become options again: the option's name, what is accepted, what the parser would have made of it.
READ: dict[str, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    "model": ("model", _is(str), Path),
    "labels": ("labels", _list_of(int), lambda value: [str(label) for label in value]),
    "prompts": ("prompt", _list_of(str), list),
    "negative": ("negative", _is(str), str),
    **{name: (name, _list_of(str), lambda value: [Path(path) for path in value]) for name in IMAGES},
    **{name: (name, _list_of(str), list) for name in FILES if name not in IMAGES},
    "strength": ("strength", _is(int, float), float),
    "paste": ("paste", _is(bool), bool),
    "noise_level": ("noise_level", _is(int), int),
    "layout": ("layout", _is(str), Path),
    "variant": ("variant", _is(str), str),
    "like": ("like", _is(str), Path),
    "no_ema": ("no_ema", _is(bool), bool),
    "seed": ("seed", _is(int), int),
    "first": ("first", _is(int), int),
    "num": ("num", _is(int), int),
    "steps": ("steps", _is(int), int),
    "guidance": ("guidance", _is(int, float), float),
    "sampler": ("sampler", _is(str), str),
    "height": ("height", _is(int), int),
    "width": ("width", _is(int), int),
    # Noise of one's own, as the demo page interpolates it, which no option gives.
    "latents": ("latents", _is(), str),
    "dtype": ("dtype", lambda value: value in ("float32", "bfloat16"), str),
}


def recall(parser: Parser, args: Sequence[str]) -> argparse.Namespace:
    """The options in args; with --again those of the picture take the place of the defaults."""
    from ldm_jax import images

    options = parser.parse_args(args)
    if options.again is not None:
        stored = _options(images.read_settings(options.again), options.again)
        if any(getattr(options, name) is not None for name in WHAT):
            stored = {name: value for name, value in stored.items() if name not in WHAT}
        parser.set_defaults(**stored)
        options = parser.parse_args(args)
    if options.model is None:
        raise InputError("model: name a run's folder, such as runs/quickstart")
    return options


def _options(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    options = {}
    for name, (option, accepted, made) in READ.items():
        value = settings.get(name)
        if value is None:
            continue
        if not accepted(value):
            raise InputError(f"again: {path} tells a {name} that can't be used, {str(value)[:60]!r}")
        options[option] = made(value)
    return options
