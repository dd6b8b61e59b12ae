"""classify: the class of images by the denoiser's own errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError


def classify(args: Sequence[str]) -> int:
    """classify MODEL --image FILE ... | --data SOURCE [--num N] [--out report.json]"""
    parser = Parser(prog="ldm-jax classify", description="Names the class whose noise prediction errs least.")
    parser.add_argument("model", type=Path, help="a run's folder or its model/, trained with labels")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", nargs="+", type=Path, help="pictures to classify")
    what.add_argument("--data", metavar="SOURCE", help="a labelled set, of whose test split the accuracy is told")
    parser.number("--num", int, least=1, help="images of --data (default: 500)")
    parser.number("--samples", int, least=1, nargs="+", default=[8, 16, 32], help="times of each round")
    parser.number("--kept", int, least=1, nargs="*", default=[4, 2], help="classes that go on to the next round")
    parser.number("--seed", int, least=0, most=2**64 - 1, default=0, help="of the noise; up to 64 bits")
    parser.number("--batch-size", int, least=1, default=500, help="images times classes at a time")
    parser.add_argument("--out", type=Path, help="what was found, as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options = parser.parse_args(args)

    import numpy as np

    from ldm_jax import seeds
    from ldm_jax.cli.labelled import labelled
    from ldm_jax.cli.sample_images import decode_all
    from ldm_jax.data import prepare
    from ldm_jax.files import check_file, whole
    from ldm_jax.pipeline import load
    from ldm_jax.tasks import Rounds

    if options.image and options.num is not None:
        raise InputError(f"num: {options.num} can't be used, it is for --data; leave it out")
    rounds = Rounds(tuple(options.samples), tuple(options.kept))
    if options.out:
        check_file(options.out, (".json",), overwrite=options.overwrite)
    model = load(options.model)
    h, _, c = model.shape
    if options.image:
        images = np.stack([prepare(image, h, c) for image in decode_all(options.image)])
        truth = None
    else:
        images, truth = labelled("data", options.data, "test", model, options.num or 500)
    said = model.classify(images, seeds.key(options.seed), rounds=rounds, batch_size=options.batch_size)
    names = [model.class_names[label] for label in said.labels]
    report = {"evaluations_per_image": said.evaluations, "labels": said.labels.tolist(), "names": names}
    if truth is not None:
        report["accuracy"] = float((said.labels == truth).mean())
        print(f"accuracy {report['accuracy']:.3f} of {len(images)} images, {said.evaluations} evaluations an image")
    else:
        for path, name in zip(options.image, names, strict=True):
            print(f"{path}: {name}")
    if options.out:
        with whole(options.out) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 0
