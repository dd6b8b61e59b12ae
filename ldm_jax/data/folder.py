"""`folder:PATH`: image files on disk, laid out as docs/data.md shows and `ldm_jax.data.layout` finds out.

`decoding.decode` says what becomes of EXIF orientation, transparency and unusual pixel formats.

Every image is decoded once when the folder is opened, in threads: a length and an order that change when a broken file
turns up in hour three would break resuming. The verdicts are remembered in the user's cache folder by the file's size
and time, so that the next opening only looks at what changed.
"""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import PIL

from ldm_jax.data.belongings import objects_of
from ldm_jax.data.cores import available_cores
from ldm_jax.data.decoding import check_decodes, decode
from ldm_jax.data.layout import EXTENSIONS, Layout, Picture, read_layout
from ldm_jax.data.source import Annotation, Example, Source, check_split, hold_out
from ldm_jax.data.splits import SPLITS
from ldm_jax.errors import InputError

log = logging.getLogger("ldm_jax.data")

NAMED_AT_MOST = 10


class FolderSource:
    """The images of `pictures`; a Source. `broken` holds (file, reason) for those that were skipped."""

    def __init__(
        self,
        pictures: list[Picture],
        class_names: tuple[str, ...] = (),
        broken: tuple[tuple[Path, str], ...] = (),
        object_names: tuple[str, ...] = (),
    ):
        self.pictures = pictures
        self.class_names = class_names
        self.broken = broken
        self.object_names = object_names
        self._places = {name: i for i, name in enumerate(object_names)}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Example:
        try:
            image = decode(self.pictures[index].file)
        except Exception as error:  # it could be decoded when the folder was opened
            raise InputError(f"data.source: {self.pictures[index].file} can no longer be read ({error})") from error
        picture = self.pictures[index]
        return Example(
            image, picture.label, picture.captions, picture.paired, objects_of(picture.objects, self._places)
        )

    @property
    def has_pairs(self) -> bool:
        return any(picture.paired is not None for picture in self.pictures)

    def annotation(self, index: int) -> Annotation:
        return self.pictures[index].label, self.pictures[index].captions


def open_folder(path: str, split: str) -> Source:
    """Open a split of a folder of images, laid out as docs/data.md shows.

    Where nothing says which images are for tests, "test" is a held-out tenth that "train" lacks; the validation split
    stands in for a missing test split. What is not used is counted in one warning of the logger `ldm_jax.data`, broken
    images are named in another and skipped.

    Raises:
      InputError: the folder is missing or holds no image that can be read, the metadata are malformed, or the folder
        has no such split.
    """
    root, spec = Path(path).expanduser(), f"folder:{path}"
    if not root.is_dir():
        raise InputError(f"data.source: {spec}: there is no such folder; accepted: a folder with images")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"data.source: {spec}: you may not read this folder; accepted: a folder with images")
    layout = read_layout(root, spec)
    if layout.notes:
        log.warning("%s: %s", spec, "; ".join(layout.notes))
    there = tuple(name for name in SPLITS if any(picture.split == name for picture in layout.pictures))

    def part(name: str | None) -> FolderSource:
        pictures = [picture for picture in layout.pictures if picture.split == name]
        return _without_broken(root, pictures, layout, spec)

    if not there:
        check_split(split, ("train", "test"), spec)
        return hold_out(part(None), split, spec)
    accepted = there if "train" not in there else tuple(dict.fromkeys((*there, "test")))
    check_split(split, accepted, spec)
    if split == "test" and "test" not in there and "validation" in there:
        return part("validation")
    return hold_out(part("train"), split, spec) if there == ("train",) else part(split)


def _without_broken(root: Path, pictures: list[Picture], layout: Layout, spec: str) -> FolderSource:
    if not pictures:
        raise InputError(f"data.source: {spec} holds no images; accepted: {' '.join(sorted(EXTENSIONS))}")
    paired = [picture.paired for picture in pictures if picture.paired is not None]
    reasons = _check_all(root, [picture.file for picture in pictures] + paired)
    wrong = {pair: f"its {pair.name}: {why}" for pair, why in zip(paired, reasons[len(pictures) :], strict=True) if why}
    reasons = [
        why or (wrong.get(picture.paired) if picture.paired else None)
        for picture, why in zip(pictures, reasons[: len(pictures)], strict=True)
    ]
    checked = list(zip(pictures, reasons, strict=True))
    broken = tuple((picture.file, reason) for picture, reason in checked if reason is not None)
    if broken:
        named = "; ".join(f"{os.path.relpath(file, root)} ({reason})" for file, reason in broken[:NAMED_AT_MOST])
        more = f"; and {len(broken) - NAMED_AT_MOST} more" if len(broken) > NAMED_AT_MOST else ""
        message = f"{len(broken)} of {len(pictures)} images cannot be read: {named}{more}"
        if len(broken) == len(pictures):
            raise InputError(f"data.source: {spec}: {message}")
        log.warning("%s: %s; skipped", spec, message)
    sound = [picture for picture, reason in checked if reason is None]
    return FolderSource(sound, layout.class_names, broken, layout.object_names)


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
