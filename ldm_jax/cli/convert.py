"""convert: published weights into our folders or back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError


def convert(args: Sequence[str]) -> int:
    """convert SRC DST: published weights into our folders or back, with a table of every tensor."""
    parser = Parser(prog="ldm-jax convert", description="Converts published weights.", allow_abbrev=False)
    parser.add_argument("src", type=Path, help="a component folder, a pipeline folder or a single file")
    parser.add_argument("dst", type=Path, help="a new or empty folder (or a file, with --layout original)")
    parser.add_argument("--layout", choices=("published", "original"), default="published", help="what to write")
    parser.add_argument("--dtype", help="type of the tensors written (default: each one's own)")
    parser.add_argument("--variant", help="read the files of this variant, such as fp16")
    parser.add_argument("--ignore", nargs="+", default=(), help="patterns of tensors that may be left over or missing")
    parser.add_argument("--heads", type=int, help="attention heads, where a single file does not tell")
    options = parser.parse_args(args)

    from ldm_jax.pretrained.conversion import convert as run_conversion

    if not options.src.exists():
        raise InputError(f"src: {options.src} does not exist")
    run_conversion(**vars(options))
    return 0
