"""Layouts: what the network is told of boxes, which boxes count, and what a user may give."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditions import Given, SavedCondition, Size, WithFiles
from ldm_jax.conditions.layout import Layout, SavedLayout
from ldm_jax.data import Example, Objects, View
from ldm_jax.errors import InputError
from ldm_jax.models.boxes import BoxEncoder, fourier
from ldm_jax.pretrained.parts import load_part
from ldm_jax.serialization import convert, to_tree

NAMES = ("red star", "red ring", "blue star")
GIVEN = Given((), None, (8, 8, 3), (4, 4, 2), object_names=NAMES)
SIZE = Size((4, 4), 2, 2)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def made(**settings):
    condition = Layout(**{"boxes": 3, "width": 8, "hidden": 16, **settings}).build(GIVEN)
    return condition, condition.init(jax.random.key(0))


def told(condition, params, *layouts):
    found = condition.apply(params, condition.ask(SIZE, layout=list(layouts)).arrays, None)
    return np.asarray(found.context), np.asarray(found.context_mask)


def test_fourier_features_are_those_of_the_paper():
    """Sines and cosines at 100^(i / 8), as GLIGEN's FourierEmbedder has them."""
    x = np.array([0.1, 0.7, 0.2, 0.9], np.float32)
    angles = np.concatenate([c * 100.0 ** (np.arange(8) / 8) for c in x])
    want = np.concatenate([np.sin(angles), np.cos(angles)])
    np.testing.assert_allclose(fourier(jnp.asarray(x)[None, None])[0, 0], want, atol=1e-5)


def test_a_token_depends_on_its_own_class_and_box_alone():
    condition, params = made()
    one, mask = told(condition, params, [("red star", WHOLE), ("blue star", (0.0, 0.0, 0.5, 0.5))])
    turned, _ = told(condition, params, [("blue star", (0.0, 0.0, 0.5, 0.5)), ("red star", WHOLE)])
    moved, _ = told(condition, params, [("red star", WHOLE), ("blue star", (0.0, 0.1, 0.5, 0.5))])
    assert mask.tolist() == [[True, True, True, False]]
    np.testing.assert_allclose(one[0, [0, 1, 2]], turned[0, [0, 2, 1]], atol=1e-6)
    np.testing.assert_array_equal(one[0, :2], moved[0, :2])
    assert np.abs(one[0, 2] - moved[0, 2]).max() > 1e-3


def test_no_layout_and_an_empty_one_are_the_null_one():
    condition, params = made()
    (asked, empty) = (condition.ask(SIZE, **given).arrays for given in ({}, {"layout": [[]]}))
    null = condition.null(condition.ask(SIZE, layout=[[("red star", WHOLE)]]).arrays)
    for arrays in (asked, empty):
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, null[name])
    context, mask = (np.asarray(x) for x in condition.apply(params, null, None)[1:3])
    assert mask.tolist() == [[True, False, False, False]] and np.isfinite(context).all()


def test_words_are_shared_where_that_is_asked_for():
    condition, params = made(words=True)
    assert condition.encoder.config.members == ((0, 1), (0, 2), (1, 3))
    assert params["names"].shape == (4, 8)
    assert made()[1]["names"].shape == (3, 8)


def test_boxes_are_cropped_and_the_largest_count():
    condition, _ = made(boxes=2)
    boxes = np.array([[8, 4, 12, 12], [0, 0, 3, 16], [4, 0, 20, 16], [3, 2, 9, 6]], np.float64)
    picture = Example(
        np.zeros((8, 8, 3), np.uint8), objects=Objects(boxes, np.array([0, 1, 2, 0])), view=View((16, 24), 8)
    )
    (found,) = condition.read(picture)
    # The square is columns 4 to 20: the second box is outside of it, the third is all of it, the first beats the last.
    np.testing.assert_allclose(found["boxes"], [[0.25, 0.25, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0]])
    assert found["classes"].tolist() == [0, 2]
    (mirrored,) = condition.read(picture._replace(view=View((16, 24), 8, True)))
    np.testing.assert_allclose(mirrored["boxes"], [[0.5, 0.25, 0.75, 0.75], [0.0, 0.0, 1.0, 1.0]])
    assert condition.read(Example(np.zeros((8, 8, 3), np.uint8)))[0]["classes"].tolist() == [3, 3]


def test_saved_and_opened(tmp_path):
    condition, params = made(words=True)
    assert isinstance(condition, WithFiles)
    tree = json.loads(json.dumps(to_tree(condition.save(params, tmp_path), SavedCondition)))
    opened, own = convert(SavedCondition, tree, "condition").open(tmp_path, lambda name: load_part(tmp_path / name))
    assert opened == condition
    jax.tree.map(np.testing.assert_array_equal, own, params)
    layout = [("red ring", (0.1, 0.2, 0.3, 0.4))]
    np.testing.assert_array_equal(told(opened, own, layout)[0], told(condition, params, layout)[0])


def test_in_short_floats(tmp_path):
    """As a model that is loaded with dtype bfloat16 has it: nearly the same tokens, in that type as those of texts."""
    condition, params = made()
    saved = condition.save(params, tmp_path)
    module = BoxEncoder(dataclasses.replace(condition.encoder.config, dtype="bfloat16"))
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    opened, own = saved.open(tmp_path, lambda name: (module, short))
    assert opened.encoder == module
    found, want = (told(c, p, [("red ring", WHOLE)])[0] for c, p in ((opened, own), (condition, params)))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), want, atol=0.05)
    opened.save(params, tmp_path / "again")
    assert load_part(tmp_path / "again" / "layout")[0] == condition.encoder
    with pytest.raises(InputError, match="is no encoder of this layout's boxes and classes"):
        SavedLayout(condition.config, ("red star",)).open(tmp_path, lambda name: (module, short))


def test_classes_by_name_by_number_and_one_layout_alone():
    condition, _ = made()
    asked = condition.ask(SIZE, layout=[("Red Ring", WHOLE), (2, WHOLE)]).arrays
    assert asked["classes"].tolist() == [[1, 2, 3]]
    given = json.loads('[[["red ring", [0, 0, 1, 1]]], []]')
    assert condition.ask(SIZE, layout=given).arrays["classes"].tolist() == [[1, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([], r"layout: '\[\]' is no list of layouts; accepted"),
        ("red star", "layout: 'red star' is no list of layouts"),
        ([[("red stare", WHOLE)]], r"layout: 'red stare' \(perhaps 'red star'\?\)"),
        ([[(3, WHOLE)]], "layout: 3 must be between 0 and 2"),
        ([[("red star", (0, 0, 1))]], "is no box; accepted"),
        ([[("red star", (0.5, 0, 0.2, 1))]], r"layout: the box \[0.5, 0.0, 0.2, 1.0\] of 'red star' is no box in"),
        ([[("red star", (0, 0, 1, 2))]], "is no box in the image"),
        ([["red star"]], "layout: 'red star' is no class with its box"),
        ([[("red star", WHOLE)] * 4], "layout: 4 boxes must be at most 3"),
    ],
)
def test_what_is_wrong_is_one_line(layout, message):
    with pytest.raises(InputError, match=message):
        made()[0].ask(SIZE, layout=layout)


def test_settings_that_can_not_be():
    with pytest.raises(InputError, match=r"conditions\.layout\.boxes: 0 must be at least 1"):
        Layout(boxes=0)
    with pytest.raises(InputError, match=r"conditions\.layout: the data have no boxes"):
        Layout().build(GIVEN._replace(object_names=()))
    with pytest.raises(InputError, match="layout: this model draws from boxes"):
        made(dropout=0.0)[0].ask(SIZE)
