"""`bundled:shapes`: what is painted, what is said of it, and the reader that judges both."""

import re

import numpy as np
import pytest

from ldm_jax.data import annotation, open_source
from ldm_jax.data.bundled.shapes import COLOURS, HELD_OUT, SHAPES, SIDE, SIZES, Shapes, Thing, paint
from ldm_jax.data.bundled.shapes_judge import things_in

WORDS = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def told(things):
    return sorted((thing.colour, thing.shape, thing.size) for thing in things)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_reader_finds_what_was_painted(split):
    """All of 200 pictures: the judge makes no mistakes of its own on real ones."""
    source = Shapes(split)
    for i in range(0, 1000, 5):
        things, _ = source.scene(i)
        found = things_in(source[i].image)
        assert told(found) == told(things), i
        places = {(t.colour, t.shape, t.size): t.centre for t in things}
        if len(places) == len(things):
            for thing in found:
                own = places[thing.colour, thing.shape, thing.size]
                assert np.abs(np.subtract(thing.centre, own)).max() <= 2


def test_captions_name_the_objects_in_order():
    source = Shapes("train")
    for i in range(300):
        things, caption = source.scene(i)
        named = [(colour, shape, size) for size, colour, shape in WORDS.findall(caption)]
        assert named == [(thing.colour, thing.shape, thing.size) for thing in things]
        assert annotation(source, i) == (-1, (caption,)) and source[i].captions == (caption,)


def test_sides_are_as_the_caption_says():
    source = Shapes("test")
    axes = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "over": (0, 1), "below": (0, -1), "under": (0, -1)}
    seen = set()
    for i in range(400):
        things, caption = source.scene(i)
        for word, (axis, sign) in axes.items():
            if f" {word} " in caption:
                seen.add(word)
                assert sign * (things[1].centre[axis] - things[0].centre[axis]) > 20
    assert seen == set(axes)


def test_no_held_out_pair_is_trained_and_every_test_picture_has_one():
    pairs = {
        split: [{(t.colour, t.shape) for t in Shapes(split).scene(i)[0]} for i in range(600)]
        for split in ("train", "test")
    }
    assert not any(found & set(HELD_OUT) for found in pairs["train"])
    assert all(found & set(HELD_OUT) for found in pairs["test"])
    # Every other pair occurs, so that each colour and each shape is known.
    assert len(set().union(*pairs["train"])) == len(COLOURS) * len(SHAPES) - len(HELD_OUT)
    assert set(HELD_OUT) <= set().union(*pairs["test"])


def test_the_same_each_time_and_apart_from_the_other_split():
    train, test = open_source("bundled:shapes"), open_source("bundled:shapes", "test")
    np.testing.assert_array_equal(train[7].image, Shapes("train")[7].image)
    assert train[7].image.shape == (SIDE, SIDE, 3) and train[7].image.dtype == np.uint8
    assert (len(train), len(test)) == (12_000, 2_000)
    assert len({train.annotation(i)[1] for i in range(500)} & {test.annotation(i)[1] for i in range(500)}) == 0
    with pytest.raises(IndexError):
        test[2_000]


def test_a_wrong_colour_and_a_wrong_shape_are_seen():
    picture = paint((Thing("red", "star", "large", (32, 32), 14),))
    assert told(things_in(picture)) == [("red", "star", "large")]
    assert told(things_in(np.full_like(picture, 255))) == []
    blue = paint((Thing("blue", "ring", "small", (20, 40), 9),))
    assert told(things_in(blue)) == [("blue", "ring", "small")]
