import numpy as np
import pytest

from ldm_jax.data import Example, Source, annotation, open_source
from ldm_jax.data.arrays import ArraySource
from ldm_jax.data.source import hold_out
from ldm_jax.errors import InputError


def numbered(n: int) -> ArraySource:
    """n images of 2x2 whose grey level and label are their own number."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 1))
    return ArraySource(images, np.arange(n), tuple(f"number {i}" for i in range(n)), tuple(map(str, range(n))))


@pytest.mark.parametrize("spec", ["", "fashion_mnist", "ftp:x", "folder:", "bundled:mnist", "tfds", ":"])
def test_unknown_source_is_one_line_that_says_what_is_accepted(spec):
    with pytest.raises(InputError, match=r"accepted: .*bundled:fashion_mnist") as error:
        open_source(spec)
    assert "\n" not in str(error.value)
    assert "data.source" in str(error.value)


@pytest.mark.parametrize("n", [2, 3, 9, 10, 25, 101])
def test_held_out_tenth_and_the_rest_are_the_whole(n):
    train, test = hold_out(numbered(n), "train", "x"), hold_out(numbered(n), "test", "x")
    assert len(test) == max(n // 10, 1)
    labels = [[part[i].label for i in range(len(part))] for part in (train, test)]
    assert sorted(labels[0] + labels[1]) == list(range(n))
    assert labels == [sorted(part) for part in labels]
    assert train.class_names == numbered(n).class_names


def test_which_tenth_is_held_out_never_changes():
    test = hold_out(numbered(40), "test", "x")
    assert [test[i].label for i in range(4)] == HELD_OUT_OF_40


HELD_OUT_OF_40 = [0, 6, 31, 32]


def test_one_example_cannot_be_held_out():
    assert len(hold_out(numbered(1), "train", "x")) == 1
    with pytest.raises(InputError, match="too few"):
        hold_out(numbered(1), "test", "x")


def test_annotation_reads_the_example_where_the_source_has_no_shortcut():
    class Plain:
        class_names = ("a",)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return Example(np.zeros((1, 1, 1), np.uint8), 0, ("words",))

    source: Source = Plain()
    assert annotation(source, 0) == (0, ("words",))
    assert annotation(hold_out(numbered(20), "train", "x"), 0) == (1, ("number 1",))
