"""convert: published weights into our folders or back."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldm_jax.cli import run
from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")


def convert(args: Sequence[str]) -> int:
    """convert SRC DST: published weights into our folders or back, with a table of every tensor."""
    parser = Parser(prog="ldm-jax convert", description="Converts published weights.")
    parser.add_argument("src", type=Path, help="a component folder, a pipeline folder or a single file")
    parser.add_argument("dst", type=Path, help="a new or empty folder (or a file, with --layout original)")
    parser.add_argument("--layout", choices=("published", "original"), default="published", help="what to write")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the tensors written (default: each one's own)")
    parser.add_argument("--variant", help="read the files of this variant, such as fp16")
    parser.add_argument("--ignore", nargs="+", default=(), help="patterns of tensors that may be left over or missing")
    parser.number("--heads", int, least=1, help="attention heads, where a single file does not tell")
    parser.add_argument(
        "--no-ema", action="store_true", help="of a single file take the weights in training, not averages"
    )
    parser.add_argument("--verbose", action="store_true", help="print a line for every tensor, mapped ones, too")
    parser.add_argument("--overwrite", action="store_true", help="replace the model (or the file) at DST")
    options = parser.parse_args(args)

    from ldm_jax.pretrained import hub
    from ldm_jax.pretrained.conversion import convert as run_conversion
    from ldm_jax.pretrained.conversion import open_any

    options.src = hub.local(options.src, options.variant)
    check_usable(options)
    check_destination(options.src, options.dst, options.layout, overwrite=options.overwrite)
    check_size(
        options.dst, open_any(options.src, options.variant, options.heads, not options.no_ema).values(), options.dtype
    )
    with replacing(options.dst) as place:
        run_conversion(
            options.src,
            place,
            layout=options.layout,
            dtype=options.dtype,
            variant=options.variant,
            ignore=options.ignore,
            heads=options.heads,
            ema=not options.no_ema,
            every=options.verbose,
        )
    print(f"model: {options.dst}")
    return 0


def check_usable(options: argparse.Namespace) -> None:
    """InputError for a source that isn't there, or an option that its kind would ignore."""
    if not options.src.exists():
        raise InputError(f"src: {options.src} does not exist")
    if options.heads is not None and options.src.is_dir():
        raise InputError(f"heads: {options.heads} can't be used, the config.json of {options.src} tells; leave it out")
    if options.no_ema and options.src.is_dir():
        raise InputError(
            f"no_ema: it can't be used, {options.src} is a folder, which holds one set of weights; leave it out"
        )
    if options.variant is not None and options.src.is_file():
        raise InputError(f"variant: {options.variant!r} can't be used, {options.src} is a single file; leave it out")


def check_destination(src: Path, dst: Path, layout: str, *, overwrite: bool, field: str = "dst") -> None:
    """InputError where DST can't be written, or holds what would be lost; `overwrite` gives up a model alone."""
    from ldm_jax.files import check_file, check_folder

    source, target = src.resolve(), dst.resolve()
    if source == target or target in source.parents or (source in target.parents and source.is_dir()):
        raise InputError(f"{field}: {dst} must be another place than src, {src}")
    if layout == "original":
        check_file(dst, (".safetensors",), overwrite=overwrite, field=field)
        return
    if dst.is_file():
        raise InputError(f"{field}: {dst} is a file; name a folder that is new or empty")
    check_folder(dst, field=field)
    if not dst.is_dir() or not any(dst.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{field}: {dst} exists; name a folder that is new or empty, or add --overwrite to replace it")
    if not any((dst / name).is_file() for name in ("model_index.json", "config.json")):
        raise InputError(f"{field}: {dst} holds something else than a model; name a folder that is new or empty")


def check_size(dst: Path, parts: Iterable[Any], dtype: str | None) -> None:
    """InputError where the disk lacks room for the tensors."""
    from ldm_jax.files import check_room

    size = 0
    for part in parts:
        for info in part.tensors.info.values():
            size += math.prod(info.shape) * ({None: info.dtype.itemsize, "float32": 4}.get(dtype, 2))
    check_room(dst, size, field="dst")


@contextmanager
def replacing(dst: Path) -> Iterator[Path]:
    """A place beside `dst` to write to, which takes its place when it is whole and is removed after an error."""
    place = dst.with_name(f"{dst.name}.tmp")
    _remove(place)
    try:
        yield place
        _remove(dst)
        place.rename(dst)
    finally:
        _remove(place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(run("convert", sys.argv[1:]))
