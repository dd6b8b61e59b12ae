import gzip
import hashlib
import os
from pathlib import Path

import pytest

from ldm_jax.data.prepare_tfds import (
    FASHION_MNIST_FILES,
    FASHION_MNIST_TIMES,
    main,
    restore_fashion_mnist,
    restore_gzip_header,
)

# Where Debian's dataset-fashion-mnist package puts them.
DEBIAN = Path(os.environ.get("FASHION_MNIST_DIR", "/usr/share/datasets/fashion-mnist"))


def test_restored_header_is_the_one_that_gzip_writes(tmp_path):
    time = FASHION_MNIST_TIMES["train"]
    plain = gzip.compress(b"some pixels", mtime=5)
    plain = plain[:9] + b"\x03" + plain[10:]
    restored = restore_gzip_header(plain, "train-images", time)
    assert gzip.decompress(restored) == b"some pixels"
    assert restored[3] == 8
    assert int.from_bytes(restored[4:8], "little") == time
    assert restored[10:23] == b"train-images\0"
    assert restored[23:] == plain[10:]
    with pytest.raises(ValueError, match="plain header"):
        restore_gzip_header(restored, "train-images", time)
    with pytest.raises(ValueError, match="plain header"):
        restore_gzip_header(b"", "x", 0)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist (or FASHION_MNIST_DIR)")
def test_restored_files_are_the_registered_ones(tmp_path):
    import tensorflow_datasets as tfds

    restore_fashion_mnist(DEBIAN, tmp_path)
    registered = (Path(tfds.__file__).parent / "url_checksums" / "fashion_mnist.txt").read_text().splitlines()
    digests = {line.split("\t")[3]: line.split("\t")[2] for line in registered}
    assert {file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for file in FASHION_MNIST_FILES} == digests


@pytest.mark.parametrize(
    "arguments", [["mnist", "--fashion-mnist-dir", "."], ["fashion_mnist", "--fashion-mnist-dir", "."]]
)
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "--fashion-mnist-dir" in capsys.readouterr().err
