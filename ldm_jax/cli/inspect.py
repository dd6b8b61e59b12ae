"""inspect: what a model, a run or a file of weights holds, as text; no weights are read."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli import run
from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError

if TYPE_CHECKING:
    from ldm_jax.pretrained.parts import Opened

STAGES = ("autoencoder", "denoiser")
INDENT = "  "
WIDTH = 120


def inspect(args: Sequence[str]) -> int:
    """inspect MODEL_OR_RUN: config, parameters by part, shapes, latents' statistics, where a run stands."""
    parser = Parser(prog="ldm-jax inspect", description="Tells what a model, a run or a file of weights holds.")
    parser.add_argument(
        "path", type=Path, metavar="MODEL_OR_RUN", help="a run's folder, a model, a part of one, a file"
    )
    parser.add_argument("--tensors", action="store_true", help="name every tensor with its shape and type")
    options = parser.parse_args(args)
    print("\n".join(described(options.path, options.tensors)))
    return 0


def described(path: Path, tensors: bool = False) -> Iterator[str]:
    """The lines about a run's folder, a model's, a part's or a single file; InputError where it is none of these."""
    from ldm_jax.pipeline.layouts import model_folder
    from ldm_jax.pretrained import hub
    from ldm_jax.pretrained.conversion import open_any

    path = hub.local(path)
    if not path.exists():
        raise InputError(f"path: {path} does not exist; name a run's folder, a model or a file of weights")
    is_run = path.is_dir() and (path / "config.json").is_file() and any((path / stage).is_dir() for stage in STAGES)
    if is_run:
        yield f"run: {path}"
        yield from run_lines(path)
    model = model_folder(path) or path
    if is_run and model == path:
        yield "model: none yet; it is saved when training ends"
        return
    if path.is_dir() and not any((model / name).is_file() for name in ("model_index.json", "config.json")):
        raise InputError(f"path: {path} holds no model_index.json or config.json; name a run's folder or a model")
    yield f"model: {model}"
    parts = open_any(model)
    if (model / "model_index.json").is_file():
        yield from index_lines(model / "model_index.json")
    total = 0
    for name, part in parts.items():
        count, lines = part_lines(name, part, tensors)
        total += count
        yield from lines
        if model.is_dir():
            yield from statistics_lines(model / name / "config.json")
    if len(parts) > 1:
        yield f"parameters: {total:,} in all"


def run_lines(path: Path) -> Iterator[str]:
    """Where a run stands, and the config that it was started with, a section a line."""
    from ldm_jax.experiment.curves import metrics_of

    config = _object(path / "config.json")
    last: dict[str, dict[str, Any]] = {}
    for row in metrics_of(path):
        last[row["stage"]] = row
    for stage in STAGES:
        # A stage's type is its name and "Training"; version 0.1 had a section of its own for each.
        known = [s for s in config.get("stages", ()) if str(s.get("type", "")).lower() == f"{stage}training"]
        training = known[0] if known else config.get(f"{stage}_training")
        goal = training.get("steps") if isinstance(training, dict) else None
        row = last.get(stage)
        kept = sorted(int(p.name) for p in (path / stage).glob("[0-9]*") if p.name.isdecimal())
        at = f"step {row['step']:,}" if row else "not started"
        of = f" of {goal:,}" if isinstance(goal, int) else ""
        loss = f", loss {row['loss']:.4g}" if row and isinstance(row.get("loss"), float) else ""
        saved = f"; checkpoints at {', '.join(f'{k:,}' for k in kept)}" if kept else ""
        yield f"{INDENT}{stage}: {at}{of}{loss}{saved}"
    yield f"{INDENT}config:"
    for name, value in config.items():
        yield from _wrapped(f"{name}: {_flat(value)}")


def index_lines(path: Path) -> Iterator[str]:
    """What model_index.json says beside the names of the parts."""
    for name, value in _object(path).items():
        if name == "conditions":
            yield from (f"{INDENT}condition: {_condition(entry)}" for entry in value)
        elif name == "class_names" or name == "id2label":
            names = list(value.values() if isinstance(value, dict) else value)
            shown = ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
            yield f"{INDENT}classes: {len(names)}{f' ({shown})' if names else ''}"
        elif not isinstance(value, list) and not (name.startswith("_") and name != "_class_name"):
            yield f"{INDENT}{name.lstrip('_')}: {_flat(value)}"


def _condition(entry: dict[str, Any]) -> str:
    """A condition in one line, its classes counted."""
    names = entry.get("class_names")
    rest = {name: value for name, value in entry.items() if name not in ("type", "name", "class_names")}
    classes = f", {len(names)} classes ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})" if names else ""
    return f"{entry.get('name', entry.get('type'))}{classes}, {_flat(rest)}"


def part_lines(name: str, part: Opened, tensors: bool) -> tuple[int, list[str]]:
    """The number of parameters of one network and the lines about it."""
    import dataclasses

    info = {tensor: part.tensors.info[tensor] for tensor in part.tensors.info}
    wanted = {tensor for source in part.wanted.values() for tensor in source.names}
    count = sum(math.prod(info[tensor].shape) for tensor in info if tensor in wanted)
    size = sum(math.prod(info[tensor].shape) * info[tensor].dtype.itemsize for tensor in info if tensor in wanted)
    kinds = ", ".join(sorted({str(info[tensor].dtype) for tensor in info}))
    kind = type(part.module).__name__
    title = f"{name}: {kind}" if name else kind
    lines = [f"{INDENT}{title}, {count:,} parameters in {len(info)} tensors, {kinds}, {_size(size)}"]
    config = dataclasses.asdict(part.module.config)  # type: ignore[attr-defined]
    lines += _wrapped(_flat(config))
    if tensors:
        width = max(map(len, info), default=0)
        lines += [f"{INDENT * 2}{t:{width}}  {list(i.shape)} {i.dtype}" for t, i in sorted(info.items())]
    return count, lines


def statistics_lines(path: Path) -> Iterator[str]:
    """How latents are normalised, where a part's config.json tells."""
    record = _object(path) if path.is_file() else {}
    for name, title in (("latents_mean", "mean"), ("latents_std", "standard deviation")):
        values = record.get(name)
        if isinstance(values, list) and all(isinstance(v, int | float) for v in values):
            yield f"{INDENT * 2}latents' {title} by channel: {', '.join(f'{v:.4g}' for v in values)}"
    if isinstance(record.get("scaling_factor"), float) and record.get("latents_std") is None:
        yield f"{INDENT * 2}latents are multiplied by {record['scaling_factor']:.6g}"


def _object(path: Path) -> dict[str, Any]:
    from ldm_jax.pretrained.tensors import read_json

    return read_json(path)


def _wrapped(text: str) -> list[str]:
    """A long line as several, below each other."""
    return textwrap.wrap(text, WIDTH, initial_indent=INDENT * 2, subsequent_indent=INDENT * 3, break_on_hyphens=False)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _flat(value: Any) -> str:
    """A value in one line: of an object "name value" with commas between."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return f"({' '.join(map(_flat, value))})"
    return json.dumps(value) if isinstance(value, bool | type(None)) or value == "" else str(value)


if __name__ == "__main__":
    sys.exit(run("inspect", sys.argv[1:]))
