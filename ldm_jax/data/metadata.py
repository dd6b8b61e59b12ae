"""`metadata.jsonl` and `metadata.csv`: what is known of images, a row an image.

A row names its file, relative to the metadata's folder, and may have captions (a string or, in JSON, a list of
strings), a label (a string or an integer), a split, another file that belongs to it, and objects with their boxes. Each
of these is found under any of several usual names; where a file has two of them, the first in the lists below counts.
Lines end at newlines, and at nothing else that Unicode calls a line's end, as captions contain such characters.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ldm_jax.data.belongings import OBJECTS, Box, boxes_of, paired_column
from ldm_jax.data.splits import split_of
from ldm_jax.errors import InputError

METADATA = ("metadata.jsonl", "metadata.csv")
FILE = ("file_name", "filename", "file", "image", "image_path", "path")
CAPTION = ("text", "caption", "captions", "prompt", "texts", "prompts")
LABEL = ("label", "class", "class_name", "category")
SPLIT = ("split",)
COLUMN_LIMIT = 2**24
"""Characters of a cell; csv's own limit is 131,072."""


class Row(NamedTuple):
    """What a row says of one image."""

    file: PurePosixPath
    """Relative to the metadata's folder."""
    captions: tuple[str, ...] = ()
    label: str | int | None = None
    split: str | None = None
    paired: PurePosixPath | None = None
    """Likewise."""
    objects: tuple[Box, ...] | None = None


def read_metadata(path: Path, where: str) -> tuple[list[Row], list[str]]:
    """The rows of a metadata file, and the columns in it that are not read.

    where: what errors begin with.

    Raises:
      InputError: the file can't be read, a row is malformed, or no row tells anything of its image.
    """
    where = f"{where}: {path.name}"
    rows = _read(path, where)
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    used = {kind: next((name for name in names if name in columns), "") for kind, names in _KINDS.items()}
    used["paired"] = paired_column(columns, used["file"])
    if rows and not (used["file"] and any(name for kind, name in used.items() if kind != "file")):
        raise InputError(
            f"{where}, {rows[0][0]}: it has {', '.join(columns) or 'nothing'}; accepted: {' or '.join(FILE[:3])} with "
            f"{', '.join(CAPTION[:3])} (strings), label (string or integer), split, paired_file_name or objects"
        )
    found = [_row(row, used, f"{where}, {place}") for place, row in rows]
    return found, [column for column in columns if column not in used.values()]


_KINDS = {"file": FILE, "caption": CAPTION, "label": LABEL, "split": SPLIT, "objects": OBJECTS}


def _object(line: str, number: int, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, line {number}: no JSON ({error.msg} at character {error.colno})") from error


def _read(path: Path, where: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, columns) of each row."""
    try:
        # newline="": no translation, so that a caption in a CSV keeps the newlines in it.
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".csv":
            csv.field_size_limit(COLUMN_LIMIT)
            rows = [(f"row {count}", row) for count, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 1)]
        else:
            lines = enumerate(text.split("\n"), 1)
            rows = [(f"line {number}", _object(line, number, where)) for number, line in lines if line.strip()]
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{where} cannot be read ({' '.join(str(error).split())})") from error
    for place, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}, {place}: accepted: an object with the fields file_name and text")
        if None in row or (path.suffix == ".csv" and None in row.values()):
            raise InputError(
                f'{where}, {place}: it has not as many cells as the header; accepted: "..." around texts with commas'
            )
    return rows


def _row(row: Mapping[str, Any], used: Mapping[str, str], where: str) -> Row:
    path = _file(row, used["file"], where)
    paired = _file(row, used["paired"], where) if row.get(used["paired"]) else None
    captions = row.get(used["caption"])
    texts = captions if isinstance(captions, list) else [] if captions is None else [captions]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: {used['caption']} is {captions!r}; accepted: a string or a list of strings")
    label = row.get(used["label"])
    if not isinstance(label, str | int | None):
        raise InputError(f"{where}: {used['label']} is {label!r}; accepted: a string or an integer")
    split = row.get(used["split"])
    if split and (not isinstance(split, str) or split_of(split) is None):
        raise InputError(f"{where}: split is {split!r}; accepted: train, validation, test")
    kept = dict.fromkeys(text.strip() for text in texts if text.strip())
    own = None if label == "" else label
    objects = boxes_of(row.get(used["objects"]), where)
    return Row(path, tuple(kept), own, split_of(split) if split else None, paired, objects)


def _file(row: Mapping[str, Any], column: str, where: str) -> PurePosixPath:
    file = row.get(column)
    if not isinstance(file, str) or not file:
        raise InputError(f"{where}: {column} is {file!r}; accepted: the name of a file")
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{where}: {column} {file!r} leads out of the folder")
    return path


def numbered(labels: Sequence[str | int | None], by_value: bool) -> tuple[list[int], tuple[str, ...]]:
    """A class number for each label, -1 for None, and the sorted names of the classes; integers by value if asked."""
    known = {str(label) for label in labels if label is not None}
    integers = by_value and all(name.lstrip("-").isdecimal() for name in known)
    names = tuple(sorted(known, key=int if integers else None))
    places = {name: i for i, name in enumerate(names)}
    return [-1 if label is None else places[str(label)] for label in labels], names
