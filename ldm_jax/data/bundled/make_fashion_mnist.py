"""Make the bundled subset of Fashion-MNIST from the files of Debian's `dataset-fashion-mnist` package.

    python ldm_jax/data/bundled/make_fashion_mnist.py FOLDER [--out DIR]

FOLDER holds `train-images-idx3-ubyte.gz` and the three others (/usr/share/datasets/fashion-mnist once the package is
installed). Written are two contact sheets, `fashion_mnist_train.png` and `fashion_mnist_test.png`: the first 1,000
(200) images of each class in the published order, 100 images a row, class 0 at the top. The place in the sheet gives
the label, so there is no other file. The PNG is written here rather than by Pillow because Pillow bundles its own
zlib, whose output changes between releases; Python's with classic zlib (1.2.11 to 1.3.1) gives the same bytes every
time.
"""

import argparse
import gzip
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = 10
SIDE = 28
IMAGES_PER_ROW = 100
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}  # our name: (the files' name, images a class)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def contact_sheet(images: np.ndarray, labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first `per_class` images of each class, tiled: uint8 [rows * 28, IMAGES_PER_ROW * 28]."""
    chosen = np.concatenate([images[np.flatnonzero(labels == label)[:per_class]] for label in range(CLASSES)])
    if len(chosen) != CLASSES * per_class:
        raise ValueError(f"some class has fewer than {per_class} images")
    tiles = chosen.reshape(-1, IMAGES_PER_ROW, SIDE, SIDE)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, IMAGES_PER_ROW * SIDE)


def filter_rows(image: np.ndarray) -> bytes:
    """The PNG scanlines of a grey image [h w], each with the filter whose residuals have the least absolute sum."""
    x = image.astype(np.int16)
    left = np.pad(x, ((0, 0), (1, 0)))[:, :-1]
    up = np.pad(x, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(x, ((1, 0), (1, 0)))[:-1, :-1]
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    predictions = np.stack([np.zeros_like(x), left, up, (left + up) // 2, paeth])
    residuals = (x - predictions).astype(np.uint8)  # modulo 256, as PNG wants it
    best = abs(residuals.view(np.int8).astype(np.int32)).sum(-1).argmin(0)
    lines = np.take_along_axis(residuals, best[None, :, None], axis=0)[0]
    return np.concatenate([best[:, None].astype(np.uint8), lines], axis=1).tobytes()


def encode_png(image: np.ndarray) -> bytes:
    """An 8-bit grey image [h w] as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 9)
    data = deflate.compress(filter_rows(image)) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def make(folder: Path, out: Path) -> None:
    """Read the four published files in `folder` and write the two contact sheets into `out`."""
    for split, (name, per_class) in SPLITS.items():
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
        sheet = contact_sheet(images, labels, per_class)
        (out / f"fashion_mnist_{split}.png").write_bytes(encode_png(sheet))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the bundled subset of Fashion-MNIST.")
    parser.add_argument("folder", type=Path, help="folder of Debian's dataset-fashion-mnist files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write (default: beside this)")
    options = parser.parse_args(arguments)
    make(options.folder, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
