"""Textures in colour: crops of Tux Paint's stamps, from Debian's package `tuxpaint-stamps-default`.

    python benchmarks/stamps.py OUT [--size 64] [--package tuxpaint-stamps-default_2022.06.04-1_all.deb]
    python train.py CONFIG.py --data.source folder:OUT

Without --package the package is fetched by `apt-get download`, so on Debian or Ubuntu. Its stamps are photographs
(animals, fruit, tools, coins) and drawings with transparency, most of them between 100 and 400 px. Those in colour are
composited on white and cut into squares of SIZE pixels that they cover to three fifths at least, at full size and, if
they are twice as large as a square, at half size. Squares to train with overlap by half; those to test with don't.

A tenth of the stamps, chosen by a hash of their names, gives the test split: no stamp has squares in both.

The stamps are under GPL-2. Nothing of them ships with ldm_jax.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from picture_folder import arguments, split, write
from PIL import Image

PACKAGE = "tuxpaint-stamps-default"
FOLDER = "usr/share/tuxpaint/stamps"
COVERED = 0.6
# Mean difference between the largest and the smallest of red, green and blue under which a stamp counts as grey.
GREY = 8


def fetch(folder: Path) -> Path:
    """The package, by apt-get."""
    subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.deb"))


def member(package: Path, prefix: bytes) -> bytes:
    """The file of a .deb (an ar archive: headers of 60 bytes, contents padded to even lengths) that begins so."""
    with package.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise SystemExit(f"--package: {package} is not a .deb")
        while header := file.read(60):
            size = int(header[48:58])
            if header.startswith(prefix):
                return file.read(size)
            file.seek(size + size % 2, io.SEEK_CUR)
    raise SystemExit(f"--package: {package} has no {prefix.decode()}")


def stamps(package: Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and RGBA image of each stamp that is a PNG, in the order of names."""
    with tarfile.open(fileobj=io.BytesIO(member(package, b"data.tar"))) as archive:
        named = {m.name.removeprefix("./"): m for m in archive if m.isfile() and m.name.endswith(".png")}
        for path in sorted(named):
            if path.startswith(FOLDER):
                file = archive.extractfile(named[path])
                assert file is not None
                yield str(PurePosixPath(path).relative_to(FOLDER).with_suffix("")), Image.open(file).convert("RGBA")


def coloured(stamp: Image.Image) -> bool:
    """Whether what is not transparent has colours."""
    pixels = np.asarray(stamp)
    opaque = pixels[pixels[..., 3] > 127][:, :3]
    return len(opaque) > 0 and float(np.ptp(opaque, axis=1).mean()) >= GREY


def squares(stamp: Image.Image, size: int, stride: int) -> Iterator[Image.Image]:
    """The parts of a stamp on white that it covers enough."""
    ground = Image.new("RGBA", stamp.size, "white")
    ground.alpha_composite(stamp)
    image, alpha = ground.convert("RGB"), stamp.getchannel("A")
    for scale in (1, 2) if min(stamp.size) >= 2 * size else (1,):
        scaled, cover = image.reduce(scale), np.asarray(alpha.reduce(scale)) / 255
        for top in range(0, scaled.height - size + 1, stride):
            for left in range(0, scaled.width - size + 1, stride):
                if cover[top : top + size, left : left + size].mean() > COVERED:
                    yield scaled.crop((left, top, left + size, top + size))


def main() -> int:
    options = arguments("Prepare crops of Tux Paint's stamps as a folder of images.", "apt-get download")
    kept: set[tuple[str, str]] = set()

    def crops(package: Path) -> Iterator[tuple[str, str, Image.Image]]:
        for name, stamp in stamps(package):
            side = split(name)
            stride = options.size // 2 if side == "train" else options.size
            for i, square in enumerate(squares(stamp, options.size, stride) if coloured(stamp) else ()):
                kept.add((side, name))
                yield side, f"{name.replace('/', '_')}_{i}", square

    with tempfile.TemporaryDirectory() as folder:
        counts = write(options.out, crops(options.package or fetch(Path(folder))))
    of = Counter(side for side, _ in kept)
    print(", ".join(f"{counts[side]} images of {of[side]} stamps in {options.out / side}" for side in sorted(of)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
