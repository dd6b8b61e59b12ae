"""What a model is used for besides drawing: editing, inpainting, inversion, interpolation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.data import to_uint8
from ldm_jax.errors import InputError

KEY = jax.random.key(0)
FEW = {"labels": [3], "steps": 4, "guidance": 1.0}


@pytest.fixture(scope="module")
def model(trained):
    return ldm_jax.load(trained)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)


def test_strength_goes_from_the_reconstruction_to_a_new_image(model, images):
    rebuilt = np.asarray(to_uint8(np.asarray(model.decode(model.encode(images)))))
    np.testing.assert_array_equal(model.edit(KEY, images, 0.0, **FEW), rebuilt)
    new = model.sample(KEY, num=2, **FEW)
    assert np.abs(model.edit(KEY, images, 1.0, **FEW).astype(int) - new).max() <= 1
    distance = [np.abs(model.edit(KEY, images, s, **FEW).astype(int) - rebuilt).mean() for s in (0.25, 0.5, 0.75, 1.0)]
    assert 0 < distance[0] < distance[1] < distance[2] < distance[3]
    for strength in (-0.1, 1.1, float("nan"), "much"):
        with pytest.raises(InputError, match=f"strength: {strength} must be between 0 and 1"):
            model.edit(KEY, images, strength)


@pytest.mark.parametrize("walk", [{}, {"jump": 2, "resample": 2, "sampler": "ddim"}], ids=["replacement", "repaint"])
def test_what_is_known_stays_and_the_rest_is_new(walk, model, images):
    masks = np.zeros((32, 32), bool)
    masks[8:24, 8:24] = True
    drawn = model.inpaint(KEY, images, masks, **FEW, **walk)
    rebuilt = np.asarray(to_uint8(np.asarray(model.decode(model.encode(images)))))
    # A latent position is four pixels; one decoder's reach away from the border nothing may change.
    chex.assert_shape(drawn, images.shape)
    inside = np.abs(drawn.astype(int) - rebuilt)[:, masks].mean()
    latents = np.asarray(model.encode(drawn))
    assert np.isfinite(latents).all() and inside > 3
    pasted = model.inpaint(KEY, images, masks, paste=True, **FEW, **walk)
    np.testing.assert_array_equal(pasted[:, ~masks], images[:, ~masks])
    np.testing.assert_array_equal(pasted[:, masks], drawn[:, masks])


def test_what_is_drawn_becomes_a_part_of_the_image(model, images, monkeypatch):
    """Outside, and one position into what is painted, the latents are those of the image with the drawing in it."""
    masks = np.zeros((2, 32, 32), bool)
    masks[:, 6:27, 6:27] = True  # whole positions: 2 to 5 on each side, with whole neighbours: 3 and 4
    z = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    monkeypatch.setattr(type(model), "sample", lambda self, key, **how: z)
    joined = model.inpaint(KEY, images, masks, output="latents", labels=[3])
    inside = np.asarray(model.decode(z))
    pasted = np.where(masks[..., None], inside, images / 127.5 - 1.0).astype(np.float32)
    expected = np.array(model.encode(pasted))
    expected[:, 3:5, 3:5] = z[:, 3:5, 3:5]
    np.testing.assert_allclose(joined, expected, atol=1e-5)
    assert np.abs(joined - z)[:, 2, 2].max() > 0.01
    shown = model.inpaint(KEY, images, masks, labels=[3])
    np.testing.assert_array_equal(shown, to_uint8(np.asarray(model.decode(joined))))
    one_by_one = model.inpaint(KEY, images, masks, labels=[3], batch_size=1)
    assert np.abs(one_by_one.astype(int) - shown).max() <= 1


def test_masks_are_understood_by_their_type(model, images):
    mask = np.zeros((2, 32, 32), bool)
    mask[:, :16] = True
    whole = model.inpaint(KEY, images, mask, **FEW)
    for other in (
        mask.astype(np.uint8),
        mask.astype(np.uint8) * 255,
        mask.astype(np.float32),
        mask[..., None],
        mask[0],
    ):
        np.testing.assert_array_equal(model.inpaint(KEY, images, other, **FEW), whole)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 32, 32)), "there is nothing to paint"),
        (np.ones((2, 16, 32)), r"masks: \[2, 16, 32\] must be \[2 32 32 1\]"),
        (np.full((32, 32), 0.5), "they must hold 0 and 1"),
        (np.full((32, 32), 7, np.uint8), "they must hold 0 and 1"),
    ],
)
def test_masks_that_are_none(mask, message, model, images):
    with pytest.raises(InputError, match=message):
        model.inpaint(KEY, images, mask, **FEW)


def test_inversion_leads_back(model, images):
    same = {"labels": [3], "steps": 50, "sampler": "ddim", "guidance": 1.0}
    noise = model.invert(images, **same)
    back = model.sample(KEY, latents=noise, num=2, output="latents", **same)
    z = np.asarray(model.encode(images))
    assert np.linalg.norm(back - z) < 1e-2 * np.linalg.norm(z)


def test_between_two_noises(model):
    a, b = (jax.random.normal(jax.random.key(i), model.latent_shape) for i in (1, 2))
    drawn = model.interpolate(KEY, a, b, 5, **FEW)
    ends = model.sample(KEY, latents=jnp.stack([a, b]), num=2, **FEW)
    assert np.abs(drawn[[0, 4]].astype(int) - ends).max() <= 1
    steps = [np.abs(drawn[i].astype(int) - drawn[0]).mean() for i in range(5)]
    assert steps == sorted(steps)
    with pytest.raises(InputError, match="num: 1 must be at least 2"):
        model.interpolate(KEY, a, b, 1)
