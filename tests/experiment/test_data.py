"""What an experiment says of its data before anything is compiled."""

import dataclasses
import logging

import numpy as np
import pytest

from ldm_jax.cache import cache_condition, place_of
from ldm_jax.conditions import Condition, Given
from ldm_jax.data import Loader
from ldm_jax.data.arrays import ArraySource
from ldm_jax.errors import InputError
from ldm_jax.experiment import parts


class Words(Condition):
    """A condition that reads captions: the bytes of one, as numbers."""

    name, fields, channels, dropout, label = "words", ("caption",), 0, 0.1, "words"

    def __init__(self):
        self.embedded = []

    def build(self, given):
        return self

    def describe(self):
        return {}

    def read(self, example):
        return [{"text": np.frombuffer(text.ljust(8).encode(), np.uint8)} for text in example.captions or ("",)]

    def embed(self, arrays):
        self.embedded += [row.tobytes().decode().strip() for row in arrays["text"]]
        return arrays


def test_of_several_captions_the_cache_has_each_once_and_a_batch_the_loaders(tmp_path):
    texts = [("a", "b"), ("b",), (), ("c", "a", "d")] * 5
    source = ArraySource(np.zeros((20, 4, 4, 1), np.uint8), None, texts)
    loader = Loader(source, batch_size=10, image_size=4, channels=1, seed=5)
    condition = Words()
    told = cache_condition(tmp_path, condition, loader, "{}")
    assert sorted(condition.embedded) == ["", "a", "b", "c", "d"]
    for step in range(12):
        rows = told.batch(place_of(20, 10, 5, step))["text"]
        assert [row.tobytes().decode().strip() for row in rows] == loader.captions(step)


def assembled(config, source, tmp_path):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source, limit=0))
    return parts.assemble(config, parts.read_base(config, tmp_path))


def test_what_was_found_is_said_in_one_line(tiny_config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ldm_jax")
    assembled(tiny_config, "bundled:emoji", tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "bundled:emoji: 1687 images, 9 classes, captions: yes, held out: 165",
        "bundled:emoji has captions that no condition of this experiment reads",
    ]
    caplog.clear()
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 8, 8, 1), np.uint8))
    assembled(tiny_config, f"npz:{tmp_path / 'x.npz'}", tmp_path)
    nothing, found = (record.getMessage() for record in caplog.records)
    assert nothing.startswith("nothing is held out: data.source: npz:")
    assert found.endswith("x.npz: 1 images, 0 classes, captions: no, held out: 0")


def test_a_condition_that_reads_captions_needs_some(tiny_config, tmp_path, caplog):
    config = dataclasses.replace(tiny_config)
    object.__setattr__(config, "conditions", (Words(),))
    base = parts.Base(None, None, None, None, {}, tmp_path)
    (found,) = parts._conditions(config, base, Given((), lambda: ["a word"], (8, 8, 1), (4, 4, 2)))
    assert found.name == "words"
    assert not caplog.records
    with pytest.raises(InputError, match=r"data\.source: bundled:fashion_mnist has no captions.*docs/data\.md"):
        parts._conditions(config, base, Given((), None, (8, 8, 1), (4, 4, 2)))
