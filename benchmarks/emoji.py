"""A small set of colour images: Microsoft's Fluent 3D emoji, from the npm package `@lobehub/fluent-emoji-3d`.

    python benchmarks/emoji.py OUT [--size 64] [--package lobehub-fluent-emoji-3d-1.1.0.tgz]
    python train.py CONFIG.py --data.source folder:OUT

Without --package the package is fetched by `npm pack` from wherever npm is set up to look. Its 3,391 pictures, 256 px
with transparency, are composited on white, resized with `ldm_jax.data.prepare` (on a uniform ground that is the same as
resizing with premultiplied alpha) and written as PNG into OUT/train and OUT/test, pixel-for-pixel duplicates once.

The test split is a tenth of the motifs, chosen by a hash of the file's name. A name is a sequence of code points; those
for skin tone and gender, and the joiners between them, are left out of the hash, as every variant of a hand or of a
runner belongs on the same side: otherwise the test set would be near duplicates of the training set.

The package is MIT licensed. Nothing of it ships with ldm_jax.
"""

import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
from picture_folder import arguments, split, write
from PIL import Image

from ldm_jax.data import prepare
from ldm_jax.data.decoding import decode

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
LEFT_OUT = SKIN_TONES | {"2640", "2642", "200d", "fe0f"}
ADULTS = {"1f468", "1f469", "1f9d1"}


def motif(name: str) -> str:
    """What the picture shows, whoever does it: the code points without skin tone and gender."""
    return "-".join("adult" if code in ADULTS else code for code in name.split("-") if code not in LEFT_OUT)


def square(image: np.ndarray) -> np.ndarray:
    """uint8 [h w 3] in the middle of a white square."""
    height, width, _ = image.shape
    side = max(height, width)
    out = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


def fetch(folder: Path) -> Path:
    """The package's archive, by npm."""
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tgz"))


def pictures(package: Path, size: int) -> dict[str, np.ndarray]:
    """uint8 [size size 3] by name, in the order of names, each once."""
    found, seen = {}, set()
    with tarfile.open(package) as archive:
        members = {PurePosixPath(m.name).stem: m for m in archive if m.isfile() and m.name.endswith(".webp")}
        for name in sorted(members):
            file = archive.extractfile(members[name])
            assert file is not None
            image = prepare(square(decode(file.read())), size, 3)
            digest = sha256(image.tobytes()).digest()
            if digest not in seen:
                seen.add(digest)
                found[name] = image
    return found


def main() -> int:
    options = arguments("Prepare the Fluent 3D emoji as a folder of images.", "npm pack")
    with tempfile.TemporaryDirectory() as folder:
        found = pictures(options.package or fetch(Path(folder)), options.size)
    counts = write(options.out, ((split(motif(name)), name, Image.fromarray(image)) for name, image in found.items()))
    print(f"{counts['train']} images to train with and {counts['test']} to test with in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
