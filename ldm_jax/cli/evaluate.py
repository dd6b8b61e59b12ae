"""evaluate: numbers of a model or of samples, with everything that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError


def evaluate(args: Sequence[str]) -> int:
    """evaluate.py MODEL_OR_SAMPLES --reference SOURCE_OR_NPZ [--metrics A,B] [--num N] [--out report.json] ..."""
    parser = Parser(
        prog="evaluate.py",
        description="Measures a model or samples against a reference and tells what the numbers depend on.",
        epilog="docs/evaluation.md tells what each number means and how to compare it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "subject",
        type=Path,
        metavar="MODEL_OR_SAMPLES",
        help="a run's folder, its model/, an .npz with arr_0, or a folder of pictures",
    )
    parser.add_argument("--reference", required=True, help="a data source, or an .npz with arr_0 or with mu and sigma")
    parser.add_argument("--split", help="split of the source that samples are compared with (default: train)")
    parser.add_argument("--reference-num", type=int, help="use about so many of its images (default: all)")
    parser.add_argument("--metrics", help="names with commas between (default: those that need no download)")
    parser.add_argument("--num", type=int, help="samples, and images to rebuild (default: 2000; all of given samples)")
    parser.add_argument("--label-policy", choices=("balanced", "random"), default="balanced", help="classes to draw")
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: the model's)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the model's)")
    parser.add_argument("--seed", type=int, default=0, help="everything random is a function of it")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time, over all devices")
    parser.add_argument("--rounding", choices=("round", "adm", "trunc"), default="round", help="from [-1, 1] to 8 bits")
    parser.add_argument("--sweep", help="guidance=1,1.5,2,4 or steps=5,10,20,50: measure at each of these, too")
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
    options = parser.parse_args(args)

    from ldm_jax import evaluation, images
    from ldm_jax.evaluation.numbers import check_names
    from ldm_jax.pretrained.writing import write_bytes

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
    print(result.report.to_markdown())
    for note in result.report.notes:
        print(f"note: {note}")
    if files is not None:
        report, picture = files
        write_bytes(report, result.report.to_json().encode())
        print(f"report: {report}")
        if result.picture is not None:
            images.write_png(picture, result.picture)
            print(f"panel: {picture}")
    return 0


def parse_sweep(text: str) -> tuple[str, tuple[float, ...]]:
    """ "guidance=1,1.5,2,4" to ("guidance", (1.0, 1.5, 2.0, 4.0)); InputError for another field or no numbers."""
    field, values = _pair(text, "sweep", "guidance=1,1.5,2,4 or steps=5,10,20")
    if field not in ("guidance", "steps"):
        raise InputError(f"sweep: {field!r} must be guidance or steps")
    try:
        numbers = tuple(int(v) if field == "steps" else float(v) for v in values.split(","))
    except ValueError:
        what = "whole numbers" if field == "steps" else "numbers"
        raise InputError(f"sweep: {values!r} must be {what} with commas between") from None
    if field == "steps" and min(numbers) < 1:
        raise InputError(f"sweep: steps={values} must be at least 1")
    return field, tuple(dict.fromkeys(float(v) for v in numbers))


def _pair(text: str, field: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{field}: {text!r} must have the form {form}")
    return name, value


def _files(out: Path | None, save_reference: Path | None, *, overwrite: bool) -> tuple[Path, Path] | None:
    """The report's and the panel's path, checked before anything is computed: nothing that was saved is lost."""
    if save_reference is not None and save_reference.suffix != ".npz":
        raise InputError(f"save-reference: {save_reference} must end in .npz")
    if out is not None and out.suffix != ".json":
        raise InputError(f"out: {out} must end in .json")
    files = None if out is None else (out, out.with_suffix(".png"))
    for path in (*(files or ()), *([save_reference] if save_reference else [])):
        if path.exists() and not overwrite:
            raise InputError(f"out: {path} exists; name another file, or add --overwrite to replace it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out: {path.parent} can't be written ({error.strerror})") from error
    return files
