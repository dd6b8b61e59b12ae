"""Converting whole checkpoints, with a table of every tensor that was mapped, left over or missing."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ldm_jax.errors import InputError
from ldm_jax.models import DiT
from ldm_jax.pretrained import hub
from ldm_jax.pretrained.filling import compare
from ldm_jax.pretrained.parts import Opened, open_part, read_params, save_part
from ldm_jax.pretrained.single_file import open_single, save_original
from ldm_jax.pretrained.tables.autoencoders import STATISTICS
from ldm_jax.pretrained.tensors import read_json
from ldm_jax.pretrained.writing import write_json


class Row(NamedTuple):
    """One tensor of a conversion."""

    part: str
    published: str
    ours: str
    """Our path, empty where there is none."""
    shape: str
    status: Literal["mapped", "derived", "left over", "missing"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor."""

    rows: tuple[Row, ...]

    def count(self, status: str) -> int:
        """How many tensors have a status."""
        return sum(row.status == status for row in self.rows)

    def table(self, every: bool = True) -> str:
        """A line a tensor (or only those that weren't mapped), and the counts."""
        rows = [row for row in self.rows if every or row.status != "mapped"]
        lines = [f"{row.status:9}  {row.part}: {row.published}  {row.shape}  {row.ours}".rstrip() for row in rows]
        counts = ", ".join(f"{self.count(s)} {s}" for s in ("mapped", "derived", "left over", "missing"))
        return "\n".join([*lines, counts])


def report(parts: dict[str, Opened]) -> Report:
    """The table of what is opened; nothing is read."""
    rows: list[Row] = []
    for part, opened in parts.items():
        match = compare(opened.tensors, opened.wanted, opened.derived)
        info = opened.tensors.info
        for name, path in match.mapped.items():
            rows.append(Row(part, name, path, str(list(info[name].shape)), "mapped"))
        for name in info:
            if name not in match.mapped and name not in match.left_over:
                rows.append(Row(part, name, "", str(list(info[name].shape)), "derived"))
        rows.extend(Row(part, name, "", str(list(info[name].shape)), "left over") for name in match.left_over)
        paths = {name: path for path, source in opened.wanted.items() for name in source.names}
        rows.extend(Row(part, name, paths[name], "", "missing") for name in match.missing)
    return Report(tuple(rows))


PASSED_OVER = ("safety_checker", "image_encoder")
"""Parts of a pipeline's folder that drawing images doesn't need; they are left out."""


def open_any(
    src: str | Path, variant: str | None = None, heads: int | None = None, ema: bool = True
) -> dict[str, Opened]:
    """The networks of a component folder (part ""), a pipeline folder or a single file."""
    src = hub.local(src, variant)
    if src.is_file():
        return open_single(src, heads, ema)
    if (src / "config.json").is_file():
        return {"": open_part(src, variant)}
    index = read_json(src / "model_index.json")
    parts: dict[str, Opened] = {}
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        if not re.fullmatch(r"\w+", part):
            raise InputError(f"model: {src} names the part {part!r}, which is not a plain folder name")
        if (src / part / "config.json").is_file() and part not in PASSED_OVER:
            parts[part] = open_part(src / part, variant)
    if not parts:
        raise InputError(f"model: {src} has no part with a config.json")
    return parts


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    layout: Literal["published", "original"] = "published",
    dtype: str | None = None,
    variant: str | None = None,
    ignore: Sequence[str] = (),
    heads: int | None = None,
    ema: bool = True,
    every: bool = True,
    echo: Callable[[str], None] = print,
) -> Report:
    """Reads src (component folder, pipeline folder, single file), writes dst, prints the table of every tensor.

    layout: "published" writes diffusers' and transformers' folders, "original" the single file of a DiT, SiT or
    LightningDiT. dtype: of the tensors written; None keeps each one's own. ignore: patterns, as in a shell, of tensors
    that may be left over or missing; any other is an InputError, after the table and before anything is written.
    ema: the averages of a single file that holds both. every: False for a table of tensors that weren't mapped.
    """
    src, dst = Path(src), Path(dst)
    if dst.exists() and (dst.is_file() or any(dst.iterdir())):
        raise InputError(f"dst: {dst} exists; name a folder that is new or empty")
    parts = open_any(src, variant, heads, ema)
    found = report(parts)
    (opened,) = parts.values() if len(parts) == 1 else (None,)
    if layout == "original" and (opened is None or not isinstance(opened.module, DiT)):
        kinds = ", ".join(
            f"a {type(part.module).__name__}{f' ({name})' if name else ''}" for name, part in parts.items()
        )
        raise InputError(f"layout: 'original' is for a single DiT, {src} holds {kinds}; leave --layout out")
    echo(found.table(every))
    if layout == "original" and opened is not None and isinstance(opened.module, DiT):
        size = opened.module.config.base_size or 16
        dst.parent.mkdir(parents=True, exist_ok=True)
        save_original(opened.module, read_params(opened, dtype, None, ignore), dst, size)
        return found
    if src.is_file() and len(parts) == 1:
        # One network of one file is a component folder, as published ones are.
        parts = {"": next(iter(parts.values()))}
    for part, opened in parts.items():
        # What pipelines read of a part's config and its network doesn't: how latents are scaled, the sample's size.
        record = read_json(src / part / "config.json") if src.is_dir() else {}
        settings = {key: record[key] for key in STATISTICS if record.get(key) is not None}
        # One part is in memory at a time.
        save_part(opened.module, read_params(opened, dtype, None, ignore), dst / part if part else dst, settings)
    if src.is_dir() and (src / "model_index.json").is_file():
        _copy_settings(src, dst, parts)
    return found


SMALL = ("scheduler_config.json", "vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json")
SETTINGS = (*SMALL, "added_tokens.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def _copy_settings(src: Path, dst: Path, parts: dict[str, Opened]) -> None:
    """Schedulers and tokenizers are settings, not tensors: they go along as they are."""
    index = read_json(src / "model_index.json")
    for part in index:
        if part in parts or part.startswith("_") or not re.fullmatch(r"\w+", part):
            continue
        for name in SETTINGS:
            if (src / part / name).is_file():
                (dst / part).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(src / part / name, dst / part / name)
    left_out = {part: [None, None] for part in PASSED_OVER if part in index}
    write_json(dst / "model_index.json", index | left_out)
