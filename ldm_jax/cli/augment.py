"""augment: a labelled set of drawn images, as many of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser


def augment(args: Sequence[str]) -> int:
    """augment MODEL --per-class N --out x.npz | folder/ [--images SOURCE --strength S] [--keep SHARE]"""
    parser = Parser(prog="ldm-jax augment", description="Draws a class-balanced set that --data.source can name.")
    parser.add_argument("model", type=Path, help="a run's folder or its model/, trained with labels")
    parser.number("--per-class", int, least=1, required=True, help="images of each class")
    parser.add_argument(
        "--images", metavar="SOURCE", help="a labelled set, whose training images are drawn anew (default: from noise)"
    )
    parser.number("--strength", float, least=0, most=1, help="how far to noise --images go (default: 0.5)")
    parser.number(
        "--keep",
        float,
        default=1.0,
        help="share of the drawn images that the model's own classifier keeps (default: 1)",
    )
    parser.number("--steps", int, least=1, help="steps of the sampler (default: the model's)")
    parser.number("--guidance", float, help="classifier-free guidance scale, 1 for none (default: the model's)")
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.number("--seed", int, least=0, most=2**64 - 1, default=0, help="everything random is a function of it")
    parser.number("--batch-size", int, least=1, default=100, help="images at a time; does not affect results")
    parser.add_argument("--out", type=Path, required=True, help="x.npz, or a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options = parser.parse_args(args)

    from ldm_jax import seeds
    from ldm_jax.cli.labelled import labelled
    from ldm_jax.errors import InputError
    from ldm_jax.output import SampleMetadata, check_output, check_size, write_output
    from ldm_jax.pipeline import everywhere, load
    from ldm_jax.pipeline.classes import check_keep

    check_keep(options.keep)
    if options.strength is not None and options.images is None:
        raise InputError(f"strength: {options.strength} can't be used, it is for --images; leave it out")
    check_output(options.out, overwrite=options.overwrite)
    model = load(options.model, sharding=everywhere())
    count = options.per_class * max(model.num_classes, 1)
    h, w, c = model.shape
    check_size(options.out, count, (h, w, c), max(model.num_classes, 1))
    begin = {}
    if options.images is not None:
        images, labels = labelled("images", options.images, "train", model)
        strength = 0.5 if options.strength is None else options.strength
        begin = {"images": images, "labels": labels, "strength": strength}
    drawn = model.augment(
        seeds.key(options.seed),
        options.per_class,
        keep=options.keep,
        **begin,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        batch_size=options.batch_size,
    )
    names = [model.class_names[label] for label in drawn.labels]
    settings = {"command": "augment", "model": str(options.model), "keep": options.keep, "seed": options.seed}
    if begin:
        settings |= {"images": options.images, "strength": begin["strength"]}
    metadata = SampleMetadata(count, 0, drawn.labels.tolist(), names, settings, model.class_names)
    print(write_output(options.out, iter([drawn.images]), metadata, max(model.num_classes, 1)))
    return 0
