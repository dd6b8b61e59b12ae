"""batch: the examples that a step of a run was trained on, in words and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.cache.place import Place
    from ldm_jax.data import Loader

COLUMNS = 8
LARGE = 64
"""Pixels of a picture's side below which it is enlarged."""


def batch(args: Sequence[str]) -> int:
    """batch RUN --step K [--stage autoencoder|denoiser] [--out x.png]"""
    parser = Parser(prog="ldm-jax batch", description="Shows the examples that a step of a run was trained on.")
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.number("--step", int, least=1, required=True, help="the step, as metrics.jsonl counts them, from 1")
    parser.add_argument("--stage", choices=("autoencoder", "denoiser"), help="of which stage (default: the last)")
    parser.add_argument("--out", type=Path, help="a .png of the images, in the order of the lines")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options = parser.parse_args(args)

    from ldm_jax.cache import place_of
    from ldm_jax.configfile import load_config
    from ldm_jax.experiment.building import SHUFFLE
    from ldm_jax.experiment.parts import assemble, read_base
    from ldm_jax.files import check_file
    from ldm_jax.images import grid, is_picture, write_png
    from ldm_jax.stages.prior import own_rows

    if options.out is not None:
        check_file(options.out, (".png",), overwrite=options.overwrite)
    if not (options.run / "config.json").is_file():
        raise InputError(f"run: {options.run} holds no config.json; name a run's folder")
    config = load_config(options.run / "config.json")
    stages = {stage.label: stage for stage in config.stages}
    name = options.stage or list(stages)[-1]
    if name not in stages:
        raise InputError(f"stage: {name} is not one of this experiment's stages ({', '.join(stages)})")
    if options.step > stages[name].steps:
        raise InputError(f"step: {options.step} must be at most the {name}'s {stages[name].steps} steps")
    loader = assemble(config, read_base(config, options.run)).loader
    if options.out is not None and not is_picture(loader.shape):
        raise InputError(f"out: {list(loader.shape)} is no picture; leave it out")
    seed = config.seed + (SHUFFLE if name == "denoiser" else 0)
    prior = getattr(stages[name], "prior", None)
    size = own_rows(config.data.batch_size, prior)
    place = place_of(len(loader.source), size, seed, options.step - 1)
    print(*lines(loader, place), sep="\n")
    if prior is not None:
        print(f"{config.data.batch_size - size} more examples are of {prior.source}")
    if options.out is not None:
        images = np.stack([_image(loader, place, i) for i in range(len(place.examples))])
        write_png(options.out, grid(images, min(COLUMNS, len(images))), max(1, LARGE // images.shape[1]))
        print(options.out)
    return 0


def lines(loader: Loader, place: Place) -> Iterator[str]:
    """A line an example: its place in the batch, its number in the training set, class, caption, whether mirrored."""
    from ldm_jax.data import annotation

    names = loader.source.class_names
    for i, example in enumerate(place.examples.tolist()):
        label, captions = annotation(loader.source, example)
        words = [f"{i}: example {example}"]
        words += [f"label {label} ({names[label]})" if label < len(names) else f"label {label}"] if label >= 0 else []
        words += ["mirrored"] if loader.flip and place.flipped[i] else []
        words += [repr(captions[int(place.choice[i]) % len(captions)])] if captions else []
        yield ", ".join(words)


def _image(loader: Loader, place: Place, i: int) -> Any:
    image = loader.prepared(int(place.examples[i]))
    return image[:, ::-1] if loader.flip and place.flipped[i] else image
