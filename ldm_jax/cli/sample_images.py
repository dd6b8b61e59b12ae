"""What sample.py draws from images: edited, painted in, enlarged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.pipeline import LatentDiffusion
    from ldm_jax.pipeline.streaming import Use

STRENGTH = 0.8


def add_options(parser: Parser) -> None:
    """The options about images."""
    parser.add_argument(
        "--image", nargs="+", type=Path, metavar="FILE", help="images to change, or to paint in (--mask)"
    )
    parser.number(
        "--strength", float, least=0, most=1, help=f"how far --image is changed, 0 to 1 (default: {STRENGTH})"
    )
    parser.add_argument("--mask", nargs="+", type=Path, metavar="FILE", help="white where to paint in --image")
    parser.add_argument("--paste", action="store_true", default=None, help="keep --image's own pixels outside the mask")
    parser.add_argument(
        "--upscale", nargs="+", type=Path, metavar="FILE", help="small images, for super-resolution models"
    )
    parser.number("--noise-level", int, least=0, help="of the noise on --upscale's images, for models that take it")


def check_images(options: argparse.Namespace, model: LatentDiffusion) -> None:
    """InputError for a combination of options that can't act, with what this model can take."""
    enlarges = model.enlarges
    if options.image and options.upscale:
        raise InputError("upscale: it and --image exclude each other")
    if options.upscale and not enlarges:
        raise InputError("upscale: this model doesn't enlarge images; it takes --image FILE --strength S")
    if options.image and enlarges and (options.mask or options.strength is not None):
        raise InputError("image: this model enlarges images alone; it takes --upscale FILE")
    for name in ("strength", "mask"):
        if getattr(options, name) is not None and not options.image:
            raise InputError(f"{name}: it changes nothing without --image FILE")
    if options.paste and not options.mask:
        raise InputError("paste: it changes nothing without --mask FILE")
    if model.paints and not options.mask:
        raise InputError("mask: this model paints in images; give --image FILE --mask FILE")
    if options.noise_level is not None and not (model.published or "").endswith("UpscalePipeline"):
        raise InputError("noise_level: this model adds no noise to images; leave it out")
    for name in ("height", "width"):
        if (options.image or options.upscale) and getattr(options, name) is not None:
            raise InputError(f"{name}: {getattr(options, name)} can't be chosen, the image tells it; leave it out")


def read_use(options: argparse.Namespace, model: LatentDiffusion) -> Use | None:
    """What is drawn from the images that were named; None where there are none."""
    from ldm_jax.pipeline.streaming import Use

    enlarges = model.enlarges
    files = options.upscale or options.image
    if not files:
        return None
    images = read_images(files)
    channels = model.autoencoder.config.image_channels
    if images.shape[-1] == 1 and channels == 3:
        images = np.repeat(images, 3, axis=-1)
    if enlarges:
        level = {} if options.noise_level is None else {"noise_level": options.noise_level}
        return Use("upscale", images, options=level)
    if options.mask is None:
        return Use("edit", images, options={"strength": STRENGTH if options.strength is None else options.strength})
    masks = (read_images(options.mask).mean(axis=-1) > 0).astype(np.uint8)
    if len(masks) not in (1, len(images)):
        raise InputError(f"mask: {len(masks)} must be one, or one for each of {len(images)} images")
    if masks.shape[1:] != images.shape[1:3]:
        wanted, found = ("x".join(map(str, array.shape[1:3])) for array in (images, masks))
        raise InputError(f"mask: {found} must be of the image's size, {wanted}")
    strength = 1.0 if options.strength is None else options.strength
    return Use("inpaint", images, masks, {"strength": strength, "paste": bool(options.paste)})


def decode_all(paths: Sequence[Path]) -> list[UInt8[np.ndarray, "h w c"]]:
    """Image files, each of its own size; InputError for anything else."""
    from ldm_jax.data.decoding import read_named

    return [read_named("image", path) for path in paths]


def read_images(paths: Sequence[Path]) -> Float[np.ndarray, "n h w c"]:
    """Image files of one size as [-1, 1]; InputError for anything else."""
    from ldm_jax.images import in_range

    images = decode_all(paths)
    if len({image.shape for image in images}) != 1:
        raise InputError("image: all must have one size and one number of channels")
    return in_range("image", np.stack(images))
