"""Prepare a TFDS data set as ArrayRecord, so that `tfds:NAME` can read it without TensorFlow.

Preparing needs TensorFlow, reading does not, so this runs in an environment of its own. It imports nothing of ldm_jax
and works as a plain file:

    python -m venv tfds-env
    tfds-env/bin/pip install tensorflow tensorflow-datasets array-record importlib_resources
    tfds-env/bin/python ldm_jax/data/prepare_tfds.py NAME [--data-dir DIR]

(or `python -m ldm_jax.data.prepare_tfds NAME` where ldm_jax and TensorFlow are installed together). The data go to
--data-dir, else to TFDS_DATA_DIR, else to TFDS's own default; point TFDS_DATA_DIR there when training.

`--fashion-mnist-dir DIR` takes Fashion-MNIST from the files of Debian's `dataset-fashion-mnist` package instead of the
network. They hold the original deflate streams under a new gzip header; with the original header back they are the
files that TFDS knows, and its checksums are enforced.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Seconds since 1970 in the headers of the files that Zalando published.
FASHION_MNIST_TIMES = {"train": 1504176606, "t10k": 1504176627}
FASHION_MNIST_FILES = tuple(
    f"{part}-{kind}.gz" for part in FASHION_MNIST_TIMES for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
HEADER_LENGTH = 10
FLAG_NAME = 8


def restore_gzip_header(data: bytes, name: str, time: int) -> bytes:
    """The same gzip member with `name` and `time` in its header and the deflate stream untouched.

    `data` must be one gzip member without optional header fields (flag byte 0), as `gzip -n` writes it.
    """
    if data[:3] != b"\x1f\x8b\x08" or data[3] != 0:
        raise ValueError(f"{name}: not a gzip file with a plain header")
    header = data[:3] + bytes([FLAG_NAME]) + time.to_bytes(4, "little") + data[8:HEADER_LENGTH]
    return header + name.encode("ascii") + b"\0" + data[HEADER_LENGTH:]


def restore_fashion_mnist(debian: Path, manual: Path) -> None:
    """Write the four published Fashion-MNIST files into `manual` from those of the Debian package in `debian`."""
    for file in FASHION_MNIST_FILES:
        data = restore_gzip_header(
            (debian / file).read_bytes(), file.removesuffix(".gz"), FASHION_MNIST_TIMES[file.split("-")[0]]
        )
        (manual / file).write_bytes(data)


def prepare(name: str, data_dir: str | None = None, manual_dir: str | Path | None = None) -> Path:
    """Download (or take from `manual_dir`) and prepare the TFDS builder `name` as ArrayRecord; returns its folder."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(
        # None keeps TFDS's own default, <download_dir>/manual.
        manual_dir=manual_dir,
        force_checksums_validation=True,
        # A copy on Google's bucket is TFRecord, which cannot be read at random.
        try_download_gcs=False,
    )
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepare a TFDS data set as ArrayRecord.")
    parser.add_argument("name", help="as TFDS writes it: NAME, NAME/CONFIG or NAME/CONFIG:VERSION")
    parser.add_argument("--data-dir", default=os.environ.get("TFDS_DATA_DIR"), help="where prepared data sets live")
    parser.add_argument("--manual-dir", help="where files that you downloaded yourself lie")
    parser.add_argument("--fashion-mnist-dir", type=Path, help="folder of Debian's dataset-fashion-mnist files")
    options = parser.parse_args(arguments)
    debian = options.fashion_mnist_dir
    if debian is not None:
        missing = [file for file in FASHION_MNIST_FILES if not (debian / file).is_file()]
        if options.name.partition("/")[0].partition(":")[0] != "fashion_mnist":
            parser.error(f"--fashion-mnist-dir: only for the data set fashion_mnist, not {options.name}")
        if missing:
            parser.error(f"--fashion-mnist-dir: {debian} lacks {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        if debian is not None:
            restore_fashion_mnist(debian, Path(folder))
        path = prepare(options.name, options.data_dir, folder if debian is not None else options.manual_dir)
    print(f"prepared {options.name} in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
