"""sample: images from a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ldm_jax.cli import run
from ldm_jax.cli.again import recall, settings_of
from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.pipeline import LatentDiffusion

MOST = 2**31 - 1
"""Images are numbered by 32 bits."""
GRID_CLASSES = 100
"""A picture has a column for each class up to so many, and shows the first 16 of more."""


def sample(args: Sequence[str]) -> int:
    """sample.py MODEL [--label N | --labels N ... | --prompt TEXT ...] [--num N] [--out x.png | x.npz | folder/] ..."""
    options = recall(_parser(), args)

    from ldm_jax import seeds
    from ldm_jax.output import SampleMetadata, check_output, check_size, write_output
    from ldm_jax.pipeline import everywhere, load
    from ldm_jax.pipeline.streaming import stream
    from ldm_jax.progress import track

    prompts = read_prompts(options.prompts_file) if options.prompts_file else options.prompt
    image = read_images(options.image) if options.image else None
    check_output(options.out, overwrite=options.overwrite)
    model = load(options.model, dtype=options.dtype, sharding=everywhere())
    check_usable(options, model, prompts)
    labels = chosen_labels(options, model)
    given = prompts or options.image
    num = options.num if options.num is not None else len(given) if given else max(16, len(labels or ()))
    if options.first + num > MOST:
        raise InputError(f"first: {options.first} and num: {num} must be at most {MOST} together")
    columns = len(labels) if labels and 1 < len(labels) <= GRID_CLASSES else 8
    check_size(options.out, num, _shape(options, model, image), columns)
    batches = stream(
        model,
        seeds.key(options.seed),
        num,
        first=options.first,
        batch_size=options.batch_size,
        labels=labels,
        prompts=prompts,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        negative=options.negative,
        image=image,
        height=options.height,
        width=options.width,
    )
    numbers = range(options.first, options.first + num)
    drawn = None if labels is None else [labels[i % len(labels)] for i in numbers]
    texts = [prompts[i % len(prompts)] for i in numbers] if prompts else class_texts(drawn, model.class_names)
    metadata = SampleMetadata(num, options.first, drawn, texts, settings_of(options, model, labels, prompts, num))
    count = -(-num // min(options.batch_size, num))
    print(write_output(options.out, track(batches, "drawing", count, "batch"), metadata, columns))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="sample.py", description="Draws images from a trained model.")
    parser.add_argument(
        "model", type=Path, nargs="?", help="a run's folder, its model/ or a pipeline folder of diffusers"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--label", metavar="N|NAME", help="one class for all images, by number or name")
    what.add_argument("--labels", nargs="+", metavar="N|NAME", help="classes that share --num equally")
    what.add_argument("--prompt", nargs="+", metavar="TEXT", help="texts, for models that read them")
    what.add_argument("--prompts-file", type=Path, metavar="FILE", help="a text a line")
    parser.add_argument("--negative", metavar="TEXT", help="text that guidance leads away from (default: none)")
    parser.number(
        "--num", int, least=1, most=MOST, help="images in all (default: one a label, at least 16; one a prompt)"
    )
    parser.number(
        "--first",
        int,
        least=0,
        most=MOST,
        default=0,
        help="number of the first image (default: 0); --first 7 --num 1 draws image 7 of a larger set again",
    )
    parser.number("--steps", int, least=1, help="steps of the sampler (default: the model's)")
    parser.number("--guidance", float, help="classifier-free guidance scale, 1 for none (default: the model's)")
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.number("--height", int, least=1, help="of the images, in pixels (default: the model's)")
    parser.number("--width", int, least=1, help="likewise")
    parser.add_argument("--image", nargs="+", type=Path, help="small images, for super-resolution models")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.number(
        "--seed", int, least=0, most=2**64 - 1, default=0, help="everything random is a function of it; up to 64 bits"
    )
    parser.number(
        "--batch-size", int, least=1, default=64, help="images at a time over all devices; does not affect results"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="x.png (a grid), x.npz or a folder, which is filled while images are drawn (default: samples.png)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--again",
        type=Path,
        metavar="x.png",
        help="draw a picture of sample.py once more, from what it says of itself; options given beside it differ",
    )
    return parser


def check_usable(options: argparse.Namespace, model: LatentDiffusion, prompts: Sequence[str] | None) -> None:
    """InputError for an option that this model would ignore, with what it can take."""
    classes, texts, channels = model.num_classes, model.text is not None, model.image_channels
    if channels:
        takes = "images: sample.py MODEL --image FILE"
    elif texts:
        takes = "prompts: sample.py MODEL --prompt TEXT"
    elif classes:
        takes = f"labels: sample.py MODEL --label N (0 to {classes - 1})"
    else:
        takes = "nothing but a number: sample.py MODEL --num N"
    if options.image and not channels:
        raise InputError(f"image: this model takes no image; it takes {takes}")
    if prompts is not None and not texts:
        raise InputError(f"prompt: this model has no text encoder; it takes {takes}")
    if (options.label is not None or options.labels is not None) and not classes:
        raise InputError(f"label: this model has no classes; it takes {takes}")
    if options.negative is not None and not texts:
        raise InputError(f"negative: this model has no text encoder; it takes {takes}")
    guidance = model.sampling.guidance if options.guidance is None else options.guidance
    if options.negative is not None and guidance == 1.0:
        raise InputError("negative: without guidance it changes nothing; add --guidance W with W above 1")
    if options.guidance not in (None, 1.0) and not (texts or classes):
        raise InputError(f"guidance: {options.guidance} must be 1 (or left out), as there is no condition to guide to")
    for name in ("height", "width"):
        if options.image and getattr(options, name) is not None:
            raise InputError(f"{name}: {getattr(options, name)} can't be chosen, the image tells it; leave it out")


def chosen_labels(options: argparse.Namespace, model: LatentDiffusion) -> list[int] | None:
    """The classes that are drawn in turn: those asked for, or all; None for a model without classes.

    A picture without --num has room for the first 16 classes of many alone, which stderr is told.
    """
    from ldm_jax.conditions.classes import class_number

    count = model.num_classes
    asked = [options.label] if options.label is not None else options.labels
    if asked is not None:
        return [class_number(label, count, model.class_names) for label in asked]
    if not count:
        return None
    if options.out.suffix == ".png" and options.num is None and count > GRID_CLASSES:
        print(
            f"note: the picture shows classes 0 to 15 of {count}; choose with --labels, or name an .npz or a folder",
            file=sys.stderr,
        )
        return list(range(16))
    return list(range(count))


def class_texts(labels: Sequence[int] | None, names: Sequence[str]) -> list[str] | None:
    """The classes' names, one an image; None where they have none."""
    if labels is None or len(names) <= max(labels):
        return None
    return [names[label] for label in labels]


def _shape(options: argparse.Namespace, model: LatentDiffusion, image: Any) -> tuple[int, int, int]:
    """[h w c] of the images to come."""
    config = model.autoencoder.config
    if image is not None:
        h, w = (side * config.factor for side in image.shape[1:3])
    else:
        h, w = options.height or model.image_size, options.width or model.image_size
    return h, w, config.image_channels


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that aren't blank; InputError where there are none."""
    try:
        # Not splitlines: a text may hold other characters that end lines somewhere.
        lines = [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8, {error.reason}"
        raise InputError(f"prompts_file: {path} can't be read ({reason})") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise InputError(f"prompts_file: {path} holds no text; accepted: a text a line")
    return prompts


def read_images(paths: Sequence[Path]) -> Float[np.ndarray, "n h w c"]:
    """Image files of one size as [-1, 1]; InputError for anything else."""
    from ldm_jax.data.decoding import decode
    from ldm_jax.images import in_range

    images = []
    for path in paths:
        try:
            images.append(decode(path))
        except Exception as error:  # Pillow raises nearly every kind
            raise InputError(f"image: {path} can't be read ({str(error).splitlines()[0]})") from error
    if len({image.shape for image in images}) != 1:
        raise InputError("image: all must have one size and one number of channels")
    return in_range("image", np.stack(images))


if __name__ == "__main__":
    sys.exit(run("sample", sys.argv[1:]))
