"""What sample.py tells a model besides classes and texts: images that belong to those to be drawn, and layouts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.pipeline import LatentDiffusion

IMAGES = {
    "paired": "an image for each, such as a map of classes, for models that are told one",
    "edges": "edges, white on black, for models that draw from edges",
    "edges_of": "likewise pictures whose edges are taken",
}
"""Options that name image files, as conditions ask for them."""
TOLD = (*IMAGES, "layout")


def add_options(parser: Parser) -> None:
    """The options."""
    for name, text in IMAGES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", nargs="+", type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--layout", type=Path, metavar="FILE.json", help='[[["class", [x0, y0, x1, y1]], ...], ...], boxes in [0, 1]'
    )


def asked_names(model: LatentDiffusion) -> list[str]:
    """Those of the options that this model takes."""
    asks = {name for condition in model.conditions for name in condition.asks}
    return [name for name in TOLD if name in asks]


def takes(names: Sequence[str]) -> str:
    """How such a model is asked, in words."""
    return " or ".join(f"sample.py MODEL --{name.replace('_', '-')} FILE" for name in names)


def read_layouts(path: Path) -> list[Any]:
    """The layouts in a JSON file, not looked at; InputError where it is none."""
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"layout: {path} can't be read as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(found, list) or not found:
        raise InputError(f'layout: {path} holds no layouts; accepted: [[["class", [x0, y0, x1, y1]], ...], ...]')
    return [found] if all(isinstance(one, list) and one and isinstance(one[0], str | int) for one in found) else found


def read_told(
    options: argparse.Namespace, model: LatentDiffusion, shape: tuple[int, ...]
) -> Mapping[str, Sequence[Any]]:
    """What was named, by the names that conditions ask for, each in turn; looked at before anything is compiled.

    shape: [h w c] of the images to come. InputError for what this model does not take, or can't be read.
    """
    from ldm_jax.conditions import Size

    given = {name: list(value) for name in IMAGES if (value := getattr(options, name)) is not None}
    if options.layout is not None:
        given["layout"] = read_layouts(options.layout)
    known, factor = asked_names(model), model.autoencoder.config.factor
    for name in given:
        if name not in known:
            raise InputError(f"{name}: this model isn't told that; it takes {takes(known) or 'no such files'}")
    size = Size(tuple(side // factor for side in shape[:-1]), model.latent_shape[-1], factor)
    for condition in model.conditions:
        own = {name: value for name, value in given.items() if name in condition.asks}
        if own:
            condition.ask(size, **own)
    return given
