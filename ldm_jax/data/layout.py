"""What a folder of images is: which files are images, what is known of each, and what is not used.

Nothing is decoded here. docs/data.md shows every layout that is understood.
"""

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ldm_jax.data.belongings import Box, parallel
from ldm_jax.data.metadata import METADATA, Row, numbered, read_metadata
from ldm_jax.data.splits import SPLITS, split_of
from ldm_jax.errors import InputError

EXTENSIONS = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"]
)
SIDECAR = ".txt"
NAMED_AT_MOST = 10


class Picture(NamedTuple):
    """An image file and what is known of it."""

    file: Path
    label: int
    captions: tuple[str, ...]
    split: str | None
    paired: Path | None = None
    """An image that belongs to it."""
    objects: tuple[Box, ...] | None = None


class Layout(NamedTuple):
    """A folder of images."""

    pictures: list[Picture]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    """What a user should know, in a few words each: what is not used, and why."""
    object_names: tuple[str, ...] = ()


class _Tree(NamedTuple):
    """The files below a folder, by their paths relative to it."""

    pictures: list[PurePosixPath]
    texts: set[PurePosixPath]
    metadata: list[PurePosixPath]
    others: Counter[str]
    """By extension."""
    linked: Counter[str]
    """Pictures in folders that only a link leads to, by these."""
    folders: list[str]
    """At the first level."""
    belonging: list[PurePosixPath]
    """Pictures that belong to others and are no examples."""


class _Place(NamedTuple):
    """What a picture's path says."""

    split: str | None = None
    folder: str | None = None
    """That of its class, where it lies in one."""


def read_layout(root: Path, spec: str) -> Layout:
    """What `root` holds.

    Raises:
      InputError: metadata are malformed, two folders are the same split, or images lie beside class folders.
    """
    tree = _walk(root)
    rows, ignored = _rows(root, tree, f"data.source: {spec}")
    pairs, alone = _pairs(rows, tree)
    # Those of the metadata come first, in their order.
    paths = [*rows, *(path for path in tree.pictures if path not in rows)]
    places, notes = _places(paths, spec)
    captions = {path: rows[path].captions if path in rows else () for path in paths}
    sidecars = {path.with_suffix(SIDECAR) for path in paths} & tree.texts
    for path in paths:
        if path.with_suffix(SIDECAR) in sidecars:
            captions[path] = tuple(dict.fromkeys((*captions[path], *_sidecar(root / path, spec))))
    described = bool(pairs) or any(captions.values()) or any(row.objects is not None for row in rows.values())
    labels = _labels(paths, rows, places, described, spec)
    splits = {path: (rows[path].split if path in rows else None) or places[path].split for path in paths}
    metadata = {file.parent for file in tree.metadata}
    unlisted = {path for path in paths if path not in rows and not metadata.isdisjoint(path.parents)}
    lost = {path for path in unlisted if labels[path] is None and not captions[path]}
    outside = {path for path in paths if splits[path] is None} - lost if any(splits.values()) else set()
    used = [path for path in paths if path not in lost | outside]
    by_column = any(row.label is not None for row in rows.values())
    numbers, class_names = numbered([labels[path] for path in used], by_value=by_column)
    notes += [] if by_column else _named_like_splits(class_names)
    others = tree.others + Counter({SIDECAR: len(tree.texts - sidecars)})
    there = [path for path in used if path not in rows or (root / path).is_file()]
    notes += _unused(tree, others, len(there), len(lost), len(outside))
    notes += [f"{len(alone)} in paired/ without a picture, such as {path.name}" for path in alone[:1]]
    notes += [f"columns not read: {', '.join(ignored)}"] * bool(ignored)
    pictures = [
        Picture(
            root / path,
            k,
            captions[path],
            splits[path],
            root / pairs[path] if path in pairs else None,
            rows[path].objects if path in rows else None,
        )
        for path, k in zip(used, numbers, strict=True)
    ]
    named = [kind for picture in pictures for kind, _ in picture.objects or ()]
    return Layout(pictures, class_names, tuple(notes), numbered(named, by_value=True)[1])


def _pairs(
    rows: dict[PurePosixPath, Row], tree: _Tree
) -> tuple[dict[PurePosixPath, PurePosixPath], list[PurePosixPath]]:
    """The image that belongs to each picture, and those that belong to none; both leave the tree's pictures."""
    named = {path: row.paired for path, row in rows.items() if row.paired is not None}
    found, alone = ({}, []) if named else parallel(tree.pictures)
    found |= named
    taken = {*found.values(), *alone} - rows.keys()
    tree.belonging.extend(path for path in tree.pictures if path in taken)
    tree.pictures[:] = [path for path in tree.pictures if path not in taken]
    return found, alone


def _walk(root: Path) -> _Tree:
    """All files but hidden ones. Links are followed where classes and splits are, so that no picture comes twice."""
    tree = _Tree([], set(), [], Counter(), Counter(), [], [])
    for parent, folders, files in os.walk(root, followlinks=True):
        below = PurePosixPath(Path(parent).relative_to(root).as_posix())
        depth = len(below.parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if depth == 0:
            tree.folders.extend(folders)
        elif depth > 1 or split_of(below.parts[0]) is None:
            for name in [name for name in folders if os.path.islink(os.path.join(parent, name))]:
                folders.remove(name)
                tree.linked[str(below / name)] = _count(Path(parent, name))
        for name in files:
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in EXTENSIONS:
                tree.pictures.append(below / name)
            elif name in METADATA:
                tree.metadata.append(below / name)
            elif suffix == SIDECAR:
                tree.texts.add(below / name)
            else:
                tree.others[suffix or "without extension"] += 1
    tree.pictures.sort()
    return tree


def _count(folder: Path) -> int:
    """The pictures in a folder, without following links."""
    return sum(os.path.splitext(name)[1].lower() in EXTENSIONS for _, _, files in os.walk(folder) for name in files)


def _rows(root: Path, tree: _Tree, where: str) -> tuple[dict[PurePosixPath, Row], list[str]]:
    """A row for each picture that metadata name, in their order, and the columns that are not read.

    Several rows of one picture are one with all their captions: as pictures of their own they would be in both splits.
    """
    found: dict[PurePosixPath, Row] = {}
    columns: dict[str, None] = {}
    for path in sorted(tree.metadata, key=lambda path: (path.parent, METADATA.index(path.name))):
        if path.name != METADATA[0] and path.with_name(METADATA[0]) in tree.metadata:
            tree.others[path.name] += 1
            continue
        rows, ignored = read_metadata(root / path, where)
        columns.update(dict.fromkeys(ignored))
        for row in rows:
            key = path.parent / row.file
            old = found.get(key, Row(key))
            texts = tuple(dict.fromkeys(old.captions + row.captions))
            label = row.label if old.label is None else old.label
            paired = old.paired or (path.parent / row.paired if row.paired else None)
            boxes = row.objects if old.objects is None else old.objects
            found[key] = Row(key, texts, label, old.split or row.split, paired, boxes)
    return found, list(columns)


def _sidecar(picture: Path, spec: str) -> list[str]:
    """The captions in NAME.txt, one a line."""
    file = picture.with_suffix(SIDECAR)
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"data.source: {spec}: {file.name} cannot be read as UTF-8 ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def _places(paths: list[PurePosixPath], spec: str) -> tuple[dict[PurePosixPath, _Place], list[str]]:
    """The split and the class folder of each picture by its path, and what should be known of that."""
    notes: list[str] = []
    skip = _wrappers(paths)
    tops = {path.parts[skip] for path in paths if len(path.parts) > skip + 1}
    named = {top: split for top in sorted(tops) if (split := split_of(top))}
    for split in SPLITS:
        same = [f"{top}/" for top, name in named.items() if name == split]
        if len(same) > 1:
            raise InputError(f"data.source: {spec}: {' and '.join(same)} are both the split {split}; keep one")
    # train/ and plane/ are two classes; train/, test/ and extra/ are two splits and something else.
    if named and (len(named) == len(tops) or ("train" in named.values() and len(named) > 1)):
        return {path: _in_split(path, skip, named) for path in paths}, notes
    inner = {path: split_of(path.parts[skip + 1]) if len(path.parts) > skip + 2 else None for path in paths}
    if "train" in inner.values() and len(set(inner.values())) > 1:
        if None not in inner.values():
            return {path: _Place(inner[path], path.parts[skip]) for path in paths}, notes
        first = next(path for path in paths if inner[path])
        notes.append(f"{first.parts[skip]}/{first.parts[skip + 1]}/ is taken for a part of a class, not for a split")
    return {path: _Place(None, path.parts[skip] if len(path.parts) > skip + 1 else None) for path in paths}, notes


def _in_split(path: PurePosixPath, skip: int, named: dict[str, str]) -> _Place:
    split = named.get(path.parts[skip])
    return _Place(split, path.parts[skip + 1] if split and len(path.parts) > skip + 2 else None)


def _wrappers(paths: list[PurePosixPath]) -> int:
    """How many folders all pictures share, where below these there are splits (images/train, images/val)."""
    skip = 0
    while paths and all(len(path.parts) > skip + 2 for path in paths):
        if len({path.parts[skip] for path in paths}) > 1 or split_of(paths[0].parts[skip]):
            break
        skip += 1
        if any(split_of(path.parts[skip]) == "train" for path in paths):
            return skip
    return 0


def _labels(
    paths: list[PurePosixPath],
    rows: dict[PurePosixPath, Row],
    places: dict[PurePosixPath, _Place],
    described: bool,
    spec: str,
) -> dict[PurePosixPath, str | int | None]:
    """The class of each picture: by the metadata's label where any has one, else by its folder."""
    if any(row.label is not None for row in rows.values()):
        return {path: rows[path].label if path in rows else None for path in paths}
    folders = {place.folder for place in places.values()} - {None}
    nothing: dict[PurePosixPath, str | int | None] = dict.fromkeys(paths)
    # Beside captions or the like, one folder (images/) is where the pictures are, and not their class.
    if described and len(folders) < 2:
        return nothing
    for split in {place.split for place in places.values()}:
        there = [path for path in paths if places[path].split == split]
        loose = [path for path in there if places[path].folder is None]
        if loose and len(loose) < len(there) and not (split is None and any(p.split for p in places.values())):
            if rows:
                return nothing
            raise InputError(
                f"data.source: {spec}: images beside the class folders, such as {loose[0].name}; accepted: images in "
                "sub-folders by class, or all in one folder"
            )
    return {path: places[path].folder for path in paths}


def _named_like_splits(folders: tuple[str, ...]) -> list[str]:
    beside = next((name for name in folders if not split_of(name)), None)
    like = [name for name in folders if split_of(name) and beside is not None]
    return [f"'{name}' is taken for a class, not for a split, as '{beside}' stands beside it" for name in like]


def _unused(tree: _Tree, others: Counter[str], used: int, lost: int, outside: int) -> list[str]:
    """What is not used, in words: nothing where all is."""
    linked = sum(tree.linked.values())
    reasons = [f"{n} {extension}" for extension, n in sorted(others.items()) if n]
    reasons += [f"{linked} behind a link"] * bool(linked) + [f"{lost} not in metadata"] * bool(lost)
    reasons += [f"{outside} outside of the splits"] * bool(outside)
    total = used + sum(others.values()) + linked + lost + outside
    notes = [f"used {used} of {total} files; not used: {', '.join(reasons)}"] * bool(reasons)
    full = {path.parts[0] for path in (*tree.pictures, *tree.belonging, *map(PurePosixPath, tree.linked)) if path.parts}
    empty = [f"{name}/" for name in tree.folders if name not in full]
    return notes + [f"no pictures in {', '.join(empty[:NAMED_AT_MOST])}"] * bool(empty)
