"""evaluate: numbers of a model or of samples, with everything that they depend on."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli import run
from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

REPORT_SIZE, STATISTICS_SIZE = 8_000_000, 70_000_000
"""Bytes that a report with its panel, and Inception's statistics, may take."""


def evaluate(args: Sequence[str]) -> int:
    """evaluate.py MODEL_OR_SAMPLES --reference SOURCE_OR_NPZ [--metrics A,B] [--num N] [--out report.json] ..."""
    options = _parser().parse_args(args)

    from ldm_jax import evaluation, images
    from ldm_jax.evaluation.numbers import check_names
    from ldm_jax.files import whole

    metrics = None
    if options.metrics is not None:
        metrics = check_names([name.strip() for name in options.metrics.split(",") if name.strip()])
    weights = dict(_pair(text, "weights", "NAME=PATH") for text in options.weights)
    asked = evaluation.Options(
        subject=options.subject,
        reference=options.reference,
        metrics=metrics,
        num=options.num,
        split=options.split,
        reference_num=options.reference_num,
        labels=options.label_policy,
        sampler=options.sampler,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        batch_size=options.batch_size,
        rounding=options.rounding,
        sweep=None if options.sweep is None else parse_sweep(options.sweep),
        weights=weights,
        save_reference=options.save_reference,
        picture=options.out is not None,
    )
    files = _files(options.out, options.save_reference, overwrite=options.overwrite)
    result = evaluation.evaluate(asked)
    lines = [result.report.to_markdown(), *(f"note: {note}" for note in result.report.notes)]
    # Written first: what was measured is kept even if nobody reads what is printed.
    if files is not None:
        report, picture = files
        with whole(report) as temporary:
            temporary.write_text(result.report.to_json())
        lines.append(f"report: {report}")
        if result.picture is not None:
            images.write_png(picture, result.picture)
            lines.append(f"panel: {picture}")
    print("\n".join(lines))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="evaluate.py",
        description="Measures a model or samples against a reference and tells what the numbers depend on.",
        epilog="docs/evaluation.md tells what each number means and how to compare it.",
    )
    parser.add_argument(
        "subject",
        type=Path,
        metavar="MODEL_OR_SAMPLES",
        help="a run's folder, its model/, an .npz with arr_0, or a folder of pictures",
    )
    parser.add_argument("--reference", required=True, help="a data source, or an .npz with arr_0 or with mu and sigma")
    parser.add_argument("--split", help="split of the source that samples are compared with (default: train)")
    parser.number("--reference-num", int, least=2, help="use about so many of its images (default: all)")
    parser.add_argument("--metrics", help="names with commas between (default: those that need no download)")
    parser.number("--num", int, least=1, help="samples, and images to rebuild (default: 2000; all of given samples)")
    parser.add_argument("--label-policy", choices=("balanced", "random"), help="classes to draw (default: balanced)")
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.number("--steps", int, least=1, help="steps of the sampler (default: the model's)")
    parser.number("--guidance", float, help="classifier-free guidance scale (default: the model's)")
    parser.number("--seed", int, least=0, most=2**64 - 1, help="everything random is a function of it (default: 0)")
    parser.number("--batch-size", int, least=1, default=64, help="images at a time, over all devices")
    parser.add_argument("--rounding", choices=("round", "adm", "trunc"), default="round", help="from [-1, 1] to 8 bits")
    parser.add_argument(
        "--sweep",
        help="guidance=1,1.5,2,4, steps=5,10,20 or ema=0.03,0.1 (see average): measure at each",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="weights of inception, dinov2, clip, effnet, vgg16 or alexnet (LPIPS); repeatable",
    )
    parser.add_argument("--save-reference", type=Path, help="write the reference's statistics as an ADM .npz")
    parser.add_argument("--out", type=Path, help="report.json; a panel is drawn beside it as report.png")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier report")
    return parser


def parse_sweep(text: str) -> tuple[str, tuple[float, ...]]:
    """ "guidance=1,1.5,2,4" to ("guidance", (1.0, 1.5, 2.0, 4.0)); InputError for another field or no numbers."""
    field, values = _pair(text, "sweep", "guidance=1,1.5,2,4, steps=5,10,20 or ema=0.03,0.1")
    if field not in ("guidance", "steps", "ema"):
        raise InputError(f"sweep: {field!r} must be guidance, steps or ema")
    try:
        numbers = tuple(int(v) if field == "steps" else float(v) for v in values.split(","))
    except ValueError:
        what = "whole numbers" if field == "steps" else "numbers"
        raise InputError(f"sweep: {values!r} must be {what} with commas between") from None
    if not all(math.isfinite(number) for number in numbers):
        raise InputError(f"sweep: {values!r} must be finite numbers")
    if field == "steps" and min(numbers) < 1:
        raise InputError(f"sweep: steps={values} must be at least 1")
    if field == "ema":
        from ldm_jax.training.averages import check_length

        for number in numbers:
            check_length(number, "sweep: ema")
    return field, tuple(dict.fromkeys(float(v) for v in numbers))


def _pair(text: str, field: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{field}: {text!r} must have the form {form}")
    return name, value


def _files(out: Path | None, save_reference: Path | None, *, overwrite: bool) -> tuple[Path, Path] | None:
    """The report's and the panel's path, checked before anything is computed: nothing that was saved is lost."""
    from ldm_jax.files import check_file, check_room

    if save_reference is not None:
        check_file(save_reference, (".npz",), overwrite=overwrite, field="save-reference")
        check_room(save_reference, STATISTICS_SIZE, field="save-reference")
    if out is None:
        return None
    files = out, out.with_suffix(".png")
    check_file(out, (".json",), overwrite=overwrite)
    check_file(files[1], (".png",), overwrite=overwrite)
    check_room(out, REPORT_SIZE)
    return files


if __name__ == "__main__":
    sys.exit(run("evaluate", sys.argv[1:]))
