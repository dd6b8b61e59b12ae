"""What benchmarks/emoji.py and benchmarks/stamps.py share: arguments, which split, how a folder is written."""

import argparse
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from PIL import Image


def arguments(description: str, package: str) -> argparse.Namespace:
    """out (a folder that isn't there), size and package, checked; package: where the archive comes from."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="the folder to write, which must not exist yet")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--package", type=Path, help=f"the archive that {package} writes; without it that is called")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"out: {options.out} is there already; name a folder that is not")
    if options.size < 2:
        parser.error(f"--size: {options.size} must be at least 2")
    if options.package is not None and not options.package.is_file():
        parser.error(f"--package: {options.package} is not a file; take the archive that {package} writes")
    return options


def split(name: str) -> str:
    """ "test" for a tenth of all names, "train" for the others, by a hash."""
    return "test" if int.from_bytes(sha256(name.encode()).digest()[:8]) % 10 == 0 else "train"


def write(out: Path, images: Iterable[tuple[str, str, Image.Image]]) -> Counter[str]:
    """Each (split, name, image) as out/split/name.png; returns how many each split has."""
    # Through a temporary name, so that a folder with the right name is whole.
    temporary, counts = out.with_name(out.name + ".tmp"), Counter[str]()
    for side, name, image in images:
        path = temporary / side / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        counts[side] += 1
    temporary.replace(out)
    return counts
