"""A small set of colour images: Microsoft's Fluent 3D emoji, from the npm package `@lobehub/fluent-emoji-3d`.

    python benchmarks/emoji.py OUT [--size 64] [--package lobehub-fluent-emoji-3d-1.1.0.tgz]
    python train.py CONFIG.py --data.source folder:OUT

Without --package the package is fetched by `npm pack` from wherever npm is set up to look. Its 3,391 pictures, 256 px
with transparency, are composited on white, resized with `ldm_jax.data.prepare` (on a uniform ground that is the same as
resizing with premultiplied alpha) and written as PNG into OUT/train and OUT/test, pixel-for-pixel duplicates once.

The test split is a tenth of the motifs, chosen by a hash of the file's name. A name is a sequence of code points; those
for skin tone and gender, and the joiners between them, are left out of the hash, as every variant of a hand or of a
runner belongs on the same side: otherwise the test set would be near duplicates of the training set.

The package is MIT licensed. `bundled:emoji` has 1,852 of its pictures, without variants in skin tone and with names.
"""

import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
from picture_folder import arguments, split, write
from PIL import Image

from ldm_jax.data import prepare
from ldm_jax.data.bundled.make_emoji import PICTURES, fetch, square
from ldm_jax.data.decoding import decode

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
LEFT_OUT = SKIN_TONES | {"2640", "2642", "200d", "fe0f"}
ADULTS = {"1f468", "1f469", "1f9d1"}


def motif(name: str) -> str:
    """What the picture shows, whoever does it: the code points without skin tone and gender."""
    return "-".join("adult" if code in ADULTS else code for code in name.split("-") if code not in LEFT_OUT)


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
        found = pictures(options.package or fetch(PICTURES, Path(folder)), options.size)
    counts = write(options.out, ((split(motif(name)), name, Image.fromarray(image)) for name, image in found.items()))
    print(f"{counts['train']} images to train with and {counts['test']} to test with in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
