"""Images a batch at a time, and classes by name."""

import jax
import numpy as np
import pytest

from ldm_jax.conditions.classes import class_number
from ldm_jax.errors import InputError
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pipeline.streaming import stream


class Counting(LatentDiffusion):
    """A model whose image i is (i, its condition)."""

    def __init__(self):
        object.__setattr__(self, "calls", [])

    def sample(self, key, *, num, first, batch_size, labels=None, prompts=None, output):
        given = labels or prompts or [0]
        self.calls.append((first, num, batch_size))
        return np.array([[i, int(given[i % len(given)])] for i in range(first, first + num)])


@pytest.mark.parametrize("count", [1, 3, 4, 7, 10, 30])
@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("field", ["labels", "prompts"])
def test_batches_are_parts_of_the_whole(count, first, field):
    model, given = Counting(), list(range(100, 100 + count))
    told = {field: given if field == "labels" else list(map(str, given))}
    parts = list(stream(model, jax.random.key(0), 10, first=first, batch_size=4, **told))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.concatenate(parts).tolist() == [[i, given[i % count]] for i in range(first, first + 10)]
    # All have one size, for which there is one compilation.
    assert model.calls == [(first, 4, 4), (first + 4, 4, 4), (first + 8, 4, 4)]


def test_fewer_images_than_a_batch():
    model = Counting()
    assert [len(part) for part in stream(model, jax.random.key(0), 3, batch_size=64)] == [3]
    assert model.calls == [(0, 3, 3)]


NAMES = ("tench, Tinca tinca", "goldfish", "crane", "crane", "7")


@pytest.mark.parametrize(
    ("label", "number"),
    [(2, 2), ("2", 2), (" 0 ", 0), ("goldfish", 1), ("GoldFish", 1), ("tinca tinca", 0), ("tench, Tinca tinca", 0)],
)
def test_classes_by_number_or_name(label, number):
    assert class_number(label, 5, NAMES) == number


@pytest.mark.parametrize(
    ("label", "names", "words"),
    [
        (5, NAMES, "label: 5 must be between 0 and 4"),
        ("-1", NAMES, "label: -1 must be between 0 and 4"),
        ("7", NAMES, "label: 7 must be between 0 and 4"),
        ("crane", NAMES, "label: 'crane' is the name of classes 2, 3; give the number"),
        ("goldfsh", NAMES, "label: 'goldfsh' (perhaps 'goldfish'?) must be between 0 and 4, or one of tench, Tinca"),
        ("cat", (), "label: 'cat' must be between 0 and 4; this model's classes have no names"),
        ("", NAMES, "label: '' must be between 0 and 4, or one of"),
    ],
)
def test_classes_that_are_none(label, names, words):
    with pytest.raises(InputError) as caught:
        class_number(label, 5, names)
    assert str(caught.value).startswith(words)
