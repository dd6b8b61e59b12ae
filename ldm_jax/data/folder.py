"""`folder:PATH`: image files on disk.

Three layouts, each either in PATH itself or in its sub-folders `train/` and `test/` (or `validation/`):

- images in sub-folders (at any depth) by class: the first-level folders' sorted names are the class names;
- images all in one folder: no labels;
- `metadata.jsonl` or `metadata.csv` beside the images, one row an image, with the fields `file_name` (relative to
  the metadata file) and `text`, as Hugging Face's imagefolder has it: captions and no labels.

Files that start with a dot and files that are not images by their extension are passed over. `decoding.decode` says
what becomes of EXIF orientation, transparency and unusual pixel formats.

Every image is decoded once when the folder is opened, in threads: a length and an order that change when a broken file
turns up in hour three would break resuming. The verdicts are remembered in the user's cache folder by the file's size
and time, so that the next opening only looks at what changed.
"""

import csv
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import PIL

from ldm_jax.data.cores import available_cores
from ldm_jax.data.decoding import check_decodes, decode
from ldm_jax.data.source import Annotation, Example, Source, check_split, hold_out
from ldm_jax.errors import InputError

log = logging.getLogger("ldm_jax.data")

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"]
)
SPLITS = ("train", "test", "validation")
METADATA = ("metadata.jsonl", "metadata.csv")
NAMED_AT_MOST = 10


class FolderSource:
    """The images at `files`; a Source. `broken` holds (file, reason) for those that were skipped."""

    def __init__(
        self,
        files: list[Path],
        labels: list[int],
        captions: list[str],
        class_names: tuple[str, ...] = (),
        broken: tuple[tuple[Path, str], ...] = (),
    ):
        self.files = files
        self.labels = labels
        self.captions = captions
        self.class_names = class_names
        self.broken = broken

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        try:
            image = decode(self.files[index])
        except Exception as error:  # it could be decoded when the folder was opened
            raise InputError(f"data.source: {self.files[index]} can no longer be read ({error})") from error
        return Example(image, *self.annotation(index))

    def annotation(self, index: int) -> Annotation:
        caption = self.captions[index]
        return self.labels[index], (caption,) if caption else ()


def open_folder(path: str, split: str) -> Source:
    """Open a split of a folder of images, laid out as this module's docstring says.

    Sub-folders are splits where `train/` is there and no sub-folder has another name than train, test and validation.
    Otherwise, and where there is only `train/`, "test" is a held-out tenth that "train" lacks. Broken images are named
    and counted in one warning of the logger `ldm_jax.data`, and skipped.

    Raises:
      InputError: the folder is missing or holds no image that can be read, the metadata are malformed, or the folder
        has no such split.
    """
    root, spec = Path(path).expanduser(), f"folder:{path}"
    if not root.is_dir():
        raise InputError(f"data.source: {spec}: there is no such folder; accepted: a folder with images")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"data.source: {spec}: you may not read this folder; accepted: a folder with images")
    names = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if "train" not in names or not names <= set(SPLITS) or _metadata_file(root):
        check_split(split, ("train", "test"), spec)
        return hold_out(_open_layout(root, None, spec), split, spec)
    check_split(split, tuple(name for name in SPLITS if name in names | {"test"}), spec)
    # Over all splits, so that a class means the same number in each.
    classes = tuple(sorted({name for folder in names for name in _class_folders(root / folder)}))
    if split == "test" and "test" not in names:
        if "validation" in names:
            return _open_layout(root / "validation", classes, spec)
        return hold_out(_open_layout(root / "train", classes, spec), split, spec)
    if split == "train" and len(names) == 1:
        return hold_out(_open_layout(root / "train", classes, spec), split, spec)
    return _open_layout(root / split, classes, spec)


def _open_layout(root: Path, class_names: tuple[str, ...] | None, spec: str) -> FolderSource:
    metadata = _metadata_file(root)
    if metadata is not None:
        rows = list(_read_metadata(metadata, spec))
        return _without_broken(root, [file for file, _ in rows], [-1] * len(rows), [text for _, text in rows], (), spec)
    names = _class_folders(root)
    flat = _images_in(root, deep=False)
    if names and flat:
        raise InputError(
            f"data.source: {spec}: images beside the class folders, such as {flat[0].name}; accepted: images in "
            "sub-folders by class, or all in one folder"
        )
    if not names:
        return _without_broken(root, flat, [-1] * len(flat), [""] * len(flat), (), spec)
    class_names = class_names or names
    pairs = [(file, class_names.index(name)) for name in names for file in _images_in(root / name, deep=True)]
    return _without_broken(root, [f for f, _ in pairs], [c for _, c in pairs], [""] * len(pairs), class_names, spec)


def _without_broken(
    root: Path, files: list[Path], labels: list[int], captions: list[str], class_names: tuple[str, ...], spec: str
) -> FolderSource:
    if not files:
        raise InputError(f"data.source: {spec} holds no images; accepted: {' '.join(sorted(EXTENSIONS))}")
    reasons = _check_all(root, files)
    broken = tuple((file, reason) for file, reason in zip(files, reasons, strict=True) if reason is not None)
    if broken:
        named = "; ".join(f"{os.path.relpath(file, root)} ({reason})" for file, reason in broken[:NAMED_AT_MOST])
        more = f"; and {len(broken) - NAMED_AT_MOST} more" if len(broken) > NAMED_AT_MOST else ""
        message = f"{len(broken)} of {len(files)} images cannot be read: {named}{more}"
        if len(broken) == len(files):
            raise InputError(f"data.source: {spec}: {message}")
        log.warning("%s: %s; skipped", spec, message)
    good = [i for i, reason in enumerate(reasons) if reason is None]
    return FolderSource(
        [files[i] for i in good], [labels[i] for i in good], [captions[i] for i in good], class_names, broken
    )


def _class_folders(root: Path) -> tuple[str, ...]:
    """The sorted names of the sub-folders that hold images."""
    entries = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return tuple(entry.name for entry in entries if next(_walk(entry, deep=True), None) is not None)


def _images_in(folder: Path, deep: bool) -> list[Path]:
    return sorted(_walk(folder, deep))


def _walk(folder: Path, deep: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(parent, name)


def _metadata_file(root: Path) -> Path | None:
    return next((root / name for name in METADATA if (root / name).is_file()), None)


def _read_metadata(path: Path, spec: str) -> Iterator[tuple[Path, str]]:
    """(file, caption) for each row of a metadata file."""
    where = f"data.source: {spec}: {path.name}"
    try:
        lines = path.read_text("utf-8-sig").splitlines(keepends=True)
        if path.suffix == ".csv":
            rows = [(None, row) for row in csv.DictReader(lines)]
        else:
            rows = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{where} cannot be read ({' '.join(str(error).split())})") from error
    for count, (number, row) in enumerate(rows, 1):
        place = f"line {number}" if number else f"row {count}"
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("file_name", "text")):
            raise InputError(f"{where}, {place}: accepted: the fields file_name and text, both strings")
        if Path(row["file_name"]).is_absolute() or ".." in Path(row["file_name"]).parts:
            raise InputError(f"{where}, {place}: file_name {row['file_name']!r} leads out of the folder")
        yield path.parent / row["file_name"], row["text"]


def _check_all(root: Path, files: list[Path]) -> list[str | None]:
    """For each file, None or why it cannot be decoded; from the cache where size and time are as they were."""
    cache_file = _cache_folder() / f"{sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"
    try:
        cache = json.loads(cache_file.read_text("utf-8"))
        # Another Pillow may read other formats.
        known = cache["files"] if cache["pillow"] == PIL.__version__ else {}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}

    def check(file: Path) -> list:
        try:
            status = file.stat()
        except OSError as error:
            return [0, 0, error.strerror or "missing"]
        entry = known.get(os.path.relpath(file, root))
        if isinstance(entry, list) and entry[:2] == [status.st_size, status.st_mtime_ns] and len(entry) == 3:
            return entry
        return [status.st_size, status.st_mtime_ns, check_decodes(file)]

    with ThreadPoolExecutor(available_cores()) as pool:
        entries = list(pool.map(check, files))
    found = {os.path.relpath(file, root): entry for file, entry in zip(files, entries, strict=True)}
    if found != known:
        try:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            partial = cache_file.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps({"pillow": PIL.__version__, "files": found}), "utf-8")
            partial.replace(cache_file)
        except OSError as error:
            log.info("%s: the check of the images is not remembered (%s)", root, error)
    return [entry[2] for entry in entries]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm_jax" / "folders"
