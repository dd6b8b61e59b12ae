"""Make `bundled:emoji` from the two npm packages that it consists of.

    python -m ldm_jax.data.bundled.make_emoji [--pictures A.tgz] [--names B.tgz] [--out DIR]

A is what `npm pack @lobehub/fluent-emoji-3d@1.1.0` writes (256 px WebP with transparency, a file a sequence of code
points), B is that of `emoji-datasource-google@16.0.0`, whose `emoji.json` is read. Without them `npm pack` is called.

The two are joined by code point without U+FE0F. Pictures are put on white and resized to 64 px with
`ldm_jax.data.prepare`; on a uniform ground that is the same as resizing with premultiplied alpha. Written are

    emoji.webp    a lossless contact sheet, 43 to a row, in the order of the code points
    emoji.json    a line a picture: code points, concept, category, split, captions

A caption is Unicode's name in lower case, where need be in today's English: its "white" and "black" mean outlined and
filled and say nothing of colours, "squared" is a button. The short names follow as further captions where they are
words that no other picture has.

Two pictures have one concept if their code points are equal but for gender, hair and who does it, if their names are
equal but for such words and those for colour, size, direction and time, or if their pixels differ by less than 9 of
255 (root mean square); and so on from one to the next. A concept is in the test split where a hash of its first member
is divisible by ten, unless it has more than 8 pictures: families, hearts, clock faces and the like are to train with,
as one of them would be a tenth of the test set.
"""

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.data.bundled.emoji import SIDE
from ldm_jax.data.decoding import decode
from ldm_jax.data.transforms import prepare

PICTURES = "@lobehub/fluent-emoji-3d@1.1.0"
NAMES = "emoji-datasource-google@16.0.0"
COLUMNS = 43
LARGEST_HELD_OUT = 8
NEAR = 9.0
"""Root mean square difference of grey levels below which two pictures are variants of one."""

LEFT_OUT = {"fe0f", "200d", "2640", "2642", *(f"1f3f{i}" for i in "bcdef"), *(f"1f9b{i}" for i in "0123")}
"""Code points of how an emoji looks: the joiners, gender, skin tone, hair."""
SAME = {
    **dict.fromkeys(("1f468", "1f469", "1f9d1", "1f471", "1f9d4", "1f474", "1f475", "1f9d3"), "adult"),
    **dict.fromkeys(("1f466", "1f467", "1f9d2"), "child"),
    **dict.fromkeys(("1f934", "1f478"), "royal"),
    **dict.fromkeys(("1f57a", "1f483"), "dancer"),
    **dict.fromkeys(("1f385", "1f936", "adult-1f384"), "claus"),
}
VARIANT_WORDS = frozenset(
    re.split(
        r"\s+",
        """man men woman women boy girl male female person people adult child older young baby mother father mx
        red orange yellow green blue purple brown black white grey pink light large medium small heavy
        left right up down leftwards rightwards upwards downwards north south east west clockwise anticlockwise
        left-pointing right-pointing up-pointing down-pointing left-facing right-facing facing one two three""",
    )
)
MOON_WORDS = frozenset(["new", "full", "first", "last", "quarter", "waxing", "waning", "crescent", "gibbous", "symbol"])

LOOKS = frozenset(
    ["geometric", "heart", "flag", "animal-mammal", "animal-bird", "plant-flower", "person", "person-activity"]
)
"""Subcategories in which white, black and heavy are meant as they are."""
CALLED = {
    "002a-20e3": "keycap asterisk",
    "1f0cf": "joker playing card",
    "1f201": "japanese here button",
    "1f202": "japanese service charge button",
    "1f21a": "japanese free of charge button",
    "1f22f": "japanese reserved button",
    "1f232": "japanese prohibited button",
    "1f233": "japanese vacancy button",
    "1f234": "japanese passing grade button",
    "1f235": "japanese no vacancy button",
    "1f236": "japanese not free of charge button",
    "1f237": "japanese monthly amount button",
    "1f238": "japanese application button",
    "1f239": "japanese discount button",
    "1f23a": "japanese open for business button",
    "1f250": "japanese bargain button",
    "1f251": "japanese acceptable button",
    "1f46f": "people with bunny ears",
    "1f473": "person wearing turban",
    "1f520": "input symbol for capital letters",
    "1f521": "input symbol for small letters",
    "1f935": "person in tuxedo",
    "2705": "check mark button",
    "2753": "red question mark",
    "2754": "white question mark",
    "2755": "white exclamation mark",
    "2757": "red exclamation mark",
    "2764": "red heart",
    "2b55": "hollow red circle",
    "3297": "japanese congratulations button",
    "3299": "japanese secret button",
}


def code(name: str) -> str:
    """A sequence of code points in lower case without U+FE0F, which only asks for colour."""
    return "-".join(point for point in name.lower().split("-") if point != "fe0f")


def read_pictures(package: Path) -> dict[str, np.ndarray]:
    """uint8 [64 64 3] by code."""
    found = {}
    with tarfile.open(package) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".webp"):
                file = archive.extractfile(member)
                assert file is not None
                found[code(PurePosixPath(member.name).stem)] = prepare(square(decode(file.read())), SIDE, 3)
    return found


def square(image: np.ndarray) -> np.ndarray:
    """uint8 [h w 3] in the middle of a white square."""
    height, width, _ = image.shape
    side = max(height, width)
    out = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def read_names(package: Path) -> dict[str, dict[str, Any]]:
    """The entries of emoji.json by code."""
    with tarfile.open(package) as archive:
        file = archive.extractfile("package/emoji.json")
        assert file is not None
        return {code(entry["unified"]): entry for entry in json.load(file)}


def called(key: str, entry: Mapping[str, Any]) -> str:
    """The plain name."""
    if key in CALLED:
        return CALLED[key]
    name = entry["name"].lower().replace("\u2019", "'").replace("oclock", "o'clock")
    name = re.sub(r"^(man|woman|person): bald$", r"bald \1", name)
    name = re.sub(r"^(man|woman|person): (.* hair|beard)$", r"\1 with \2", name)
    name = re.sub(r"^(negative )?squared (latin capital )?(.*)$", r"\3 button", name)
    name = re.sub(r"\b((?:wo)?m[ae]n)s\b", r"\1's", name)
    name = re.sub(r"latin capital letter", "letter", name).removesuffix(" ornament")
    if entry["subcategory"] not in LOOKS:
        name = re.sub(r"\b(black|white|heavy) (?!cane|flag)", "", name)
    return name


def captions(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The plain name of each and its other names, by code."""
    names = {key: called(key, entry) for key, entry in entries.items()}
    others = {key: _short_names(entry) for key, entry in entries.items()}
    uses = Counter(names.values()) + Counter(name for key, short in others.items() for name in short - {names[key]})
    return {key: [name, *sorted(o for o in others[key] - {name} if uses[o] == 1)] for key, name in names.items()}


def _short_names(entry: Mapping[str, Any]) -> set[str]:
    if entry["subcategory"] in ("country-flag", "family", "alphanum", "keycap"):
        return set()
    short = {re.sub("[_-]", " ", name) for name in entry["short_names"]}
    return {name for name in short if re.fullmatch("[a-z][a-z ]{2,}", name)}


def concepts(entries: Mapping[str, Mapping[str, Any]], images: np.ndarray) -> dict[str, str]:
    """The first member of each code's concept, by code; images [n 64 64 3] in the codes' order."""
    parent = {key: key for key in entries}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    def join(a: str, b: str) -> None:
        a, b = sorted((root(a), root(b)))
        parent[b] = a

    first: dict[tuple[str, str], str] = {}
    keys = list(entries)
    for key, entry in entries.items():
        for seen in (("motif", _motif(key)), ("name", _plain_name(entry))):
            join(first.setdefault(seen, key), key)
    flat = images.reshape(len(keys), -1).astype(np.int32)
    for i in range(len(keys) - 1):
        difference = np.sqrt(np.square(flat[i + 1 :] - flat[i]).mean(1))
        for j in np.flatnonzero(difference < NEAR):
            join(keys[i], keys[i + 1 + int(j)])
    return {key: root(key) for key in keys}


def _motif(key: str) -> str:
    points = [SAME.get(point, point) for point in key.split("-") if point not in LEFT_OUT]
    motif = "-".join(points)
    return SAME.get(motif, motif)


def _plain_name(entry: Mapping[str, Any]) -> str:
    """The name without the words of variants; the whole name where nothing else is left, and of flags of countries."""
    name = entry["name"].lower()
    if entry["subcategory"] == "country-flag":
        return name
    for series in ("clock face", "keycap"):
        if name.startswith(series):
            return series
    gone = VARIANT_WORDS | (MOON_WORDS if "moon" in name else frozenset())
    return " ".join(word for word in name.partition(":")[0].split() if word not in gone) or name


def splits(groups: Mapping[str, str]) -> dict[str, str]:
    """ "train" or "test" for each code, from the concept of each."""
    sizes = Counter(groups.values())

    def held_out(concept: str) -> bool:
        return sizes[concept] <= LARGEST_HELD_OUT and int.from_bytes(sha256(concept.encode()).digest()[:8]) % 10 == 0

    return {key: "test" if held_out(concept) else "train" for key, concept in groups.items()}


def contact_sheet(images: np.ndarray) -> np.ndarray:
    """uint8 [n 64 64 3] as [rows * 64, 43 * 64, 3], the last row filled up with white."""
    rows = -(-len(images) // COLUMNS)
    tiles = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    tiles[: len(images)] = images
    return tiles.reshape(rows, COLUMNS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(rows * SIDE, -1, 3)


def make(pictures: Path, names: Path, out: Path) -> Counter[str]:
    """Read the two packages and write the two files into `out`; returns how many pictures each split has."""
    found, known = read_pictures(pictures), read_names(names)
    keys = sorted(found.keys() & known.keys())
    entries = {key: known[key] for key in keys}
    images = np.stack([found[key] for key in keys])
    texts, groups = captions(entries), concepts(entries, images)
    sides = splits(groups)
    rows = [
        {
            "code": key,
            "concept": groups[key],
            "category": entries[key]["category"],
            "split": sides[key],
            "captions": texts[key],
        }
        for key in keys
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (out / "emoji.json").write_text(f"[\n{lines}\n]\n", "utf-8")
    Image.fromarray(contact_sheet(images)).save(out / "emoji.webp", lossless=True, quality=100, method=4)
    return Counter(row["split"] for row in rows)


def fetch(package: str, folder: Path) -> Path:
    """The package's archive, by npm."""
    done = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True)
    return folder / done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the bundled set of emoji.")
    parser.add_argument("--pictures", type=Path, help=f"the archive of {PICTURES} (default: by npm pack)")
    parser.add_argument("--names", type=Path, help=f"the archive of {NAMES} (default: by npm pack)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write (default: beside this)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.pictures or fetch(PICTURES, Path(folder))
        names = options.names or fetch(NAMES, Path(folder))
        counts = make(pictures, names, options.out)
    print(f"{counts['train']} pictures to train with and {counts['test']} to test with in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
