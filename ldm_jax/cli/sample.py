"""sample: images from a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_jax.cli import run, sample_told
from ldm_jax.cli.again import recall, settings_of
from ldm_jax.cli.parsing import Parser
from ldm_jax.cli.sample_images import add_options, check_images, read_use
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.pipeline import LatentDiffusion
    from ldm_jax.pipeline.streaming import Use

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
    check_output(options.out, overwrite=options.overwrite)
    model = load(
        options.model,
        dtype=options.dtype,
        variant=options.variant,
        sharding=everywhere(),
        like=options.like,
        ema=not options.no_ema,
    )
    check_usable(options, model, prompts)
    model = with_files(options, model)
    use = read_use(options, model)
    labels = chosen_labels(options, model)
    shape = _shape(options, model, use)
    told = sample_told.read_told(options, model, shape)
    given = max(prompts or (), options.image or (), options.upscale or (), *told.values(), key=len)
    num = options.num if options.num is not None else len(given) if given else max(16, len(labels or ()))
    if options.first + num > MOST:
        raise InputError(f"first: {options.first} and num: {num} must be at most {MOST} together")
    columns = len(labels) if labels and 1 < len(labels) <= GRID_CLASSES else 8
    check_size(options.out, num, shape, columns)
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
        use=use,
        told=told,
        height=options.height,
        width=options.width,
    )
    numbers = range(options.first, options.first + num)
    drawn = None if labels is None else [labels[i % len(labels)] for i in numbers]
    texts = [prompts[i % len(prompts)] for i in numbers] if prompts else class_texts(drawn, model.class_names)
    settings = settings_of(options, model, labels, prompts, num)
    metadata = SampleMetadata(num, options.first, drawn, texts, settings, model.class_names)
    count = -(-num // min(options.batch_size, num))
    print(write_output(options.out, track(batches, "drawing", count, "batch"), metadata, columns))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="sample.py", description="Draws images from a trained model.")
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        help="a run's folder, its model/, a pipeline folder of diffusers, or one file of SD",
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
    add_options(parser)
    sample_told.add_options(parser)
    _add_files(parser)
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


def _add_files(parser: Parser) -> None:
    """The options about the model's own files."""
    parser.add_argument("--lora", nargs="+", metavar="FILE[=W]", help="LoRA files, each with its weight (default: 1)")
    parser.add_argument("--embedding", nargs="+", metavar="FILE[=TOKEN]", help="words of textual inversion")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FOLDER",
        help="a folder whose tokenizers and scheduler a single file takes",
    )
    parser.add_argument(
        "--no-ema", action="store_true", help="of a single file take the weights in training, not averages"
    )
    parser.add_argument("--variant", help="read the files of this variant, such as fp16")


def check_usable(options: argparse.Namespace, model: LatentDiffusion, prompts: Sequence[str] | None) -> None:
    """InputError for an option that this model would ignore, with what it can take."""
    classes, texts, channels = model.num_classes, model.text is not None, model.image_channels
    told = sample_told.asked_names(model)
    if told:
        takes = f"files: {sample_told.takes(told)}"
    elif channels:
        takes = "images: sample.py MODEL --upscale FILE"
    elif texts:
        takes = "prompts: sample.py MODEL --prompt TEXT"
    elif classes:
        takes = f"labels: sample.py MODEL --label N (0 to {classes - 1})"
    else:
        takes = "nothing but a number: sample.py MODEL --num N"
    check_images(options, model)
    if prompts is not None and not texts:
        raise InputError(f"prompt: this model has no text encoder; it takes {takes}")
    if (options.label is not None or options.labels is not None) and not classes:
        raise InputError(f"label: this model has no classes; it takes {takes}")
    if options.negative is not None and not texts:
        raise InputError(f"negative: this model has no text encoder; it takes {takes}")
    guidance = model.sampling.guidance if options.guidance is None else options.guidance
    if options.negative is not None and guidance == 1.0:
        raise InputError("negative: without guidance it changes nothing; add --guidance W with W above 1")
    if options.guidance not in (None, 1.0) and not (texts or classes or told):
        raise InputError(f"guidance: {options.guidance} must be 1 (or left out), as there is no condition to guide to")


def with_files(options: argparse.Namespace, model: LatentDiffusion) -> LatentDiffusion:
    """The model with the LoRAs and the words that were asked for."""
    for word in options.embedding or ():
        file, equals, token = word.partition("=")
        if equals and not token.strip():
            raise InputError(f"embedding: {word!r} must have the form FILE or FILE=TOKEN")
        model = model.load_embedding(file, token or None)
    for word in options.lora or ():
        file, _, weight = word.rpartition("=") if "=" in word else (word, "", "1")
        try:
            scale = float(weight)
        except ValueError as error:
            raise InputError(f"lora: {word!r} must be FILE or FILE=WEIGHT, with a number") from error
        model = model.load_lora(file, scale)
    return model


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


def _shape(options: argparse.Namespace, model: LatentDiffusion, use: Use | None) -> tuple[int, int, int]:
    """[h w c] of the images to come."""
    config = model.autoencoder.config
    if use is not None and (model.published or use.method != "upscale"):
        h, w = (side * (config.factor if use.method == "upscale" else 1) for side in use.images.shape[1:3])
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


if __name__ == "__main__":
    sys.exit(run("sample", sys.argv[1:]))
