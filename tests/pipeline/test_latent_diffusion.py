import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldm_jax
from ldm_jax.conditions import Given
from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.diffusion import guidance
from ldm_jax.errors import InputError
from ldm_jax.pipeline import everywhere
from ldm_jax.pipeline.compiled import sample_batch


@pytest.fixture(scope="module")
def model(trained):
    return ldm_jax.load(trained)


def test_sample_is_a_function_of_key_index_and_label_alone(model):
    key = jax.random.key(11)
    labels = [0, 3, 9, 3, 1]
    whole = model.sample(key, labels=labels, steps=3, guidance=2.0)
    chex.assert_shape(whole, (5, 32, 32, 1))
    assert whole.dtype == np.uint8
    for batch_size in (1, 2, 4):
        parts = model.sample(key, labels=labels, steps=3, guidance=2.0, batch_size=batch_size)
        assert np.abs(parts.astype(int) - whole).max() <= 1
    fewer = model.sample(key, labels=labels[:2], steps=3, guidance=2.0)
    assert np.abs(fewer.astype(int) - whole[:2]).max() <= 1
    assert np.abs(whole[1].astype(int) - whole[3]).max() > 1
    other = model.sample(jax.random.key(12), labels=labels, steps=3, guidance=2.0)
    assert np.abs(other.astype(int) - whole).max() > 1


def test_labels_are_shared_equally(model):
    # 7 images of two labels: 0 1 0 1 0 1 0, each the same as when its label is written out.
    a = model.sample(jax.random.key(0), labels=[0, 1], num=7, steps=2)
    b = model.sample(jax.random.key(0), labels=[0, 1, 0, 1, 0, 1, 0], steps=2)
    np.testing.assert_array_equal(a, b)


def test_one_compilation_serves_every_seed_label_and_guidance(model):
    model.sample(jax.random.key(0), labels=[1, 2], steps=3, guidance=1.5)
    before = sample_batch._cache_size()
    for seed, scale in ((1, 2.0), (2, 7.5), (3, 0)):
        model.sample(jax.random.key(seed), labels=[seed, 5], steps=3, guidance=scale)
    assert sample_batch._cache_size() == before


def test_devices_share_a_batch(model, trained):
    spread = ldm_jax.load(trained, sharding=everywhere())
    key, labels = jax.random.key(5), [0, 3, 9, 3, 1, 2, 7, 8, 4]
    z = spread.sample(key, labels=labels, steps=3, guidance=2.0, output="latents")
    alone = model.sample(key, labels=labels, steps=3, guidance=2.0, output="latents")
    np.testing.assert_allclose(z, alone, atol=1e-4)
    x = jax.random.uniform(jax.random.key(0), (16, 32, 32, 1), minval=-1.0)
    for images in (x, x[:3]):
        spread_z, alone_z = (m.encode(images, key) for m in (spread, model))
        np.testing.assert_allclose(spread_z, alone_z, atol=1e-4)
        np.testing.assert_allclose(spread.decode(spread_z), model.decode(alone_z), atol=1e-4)
    # Sixteen images on eight devices are two on each; three cannot be shared and are computed by every one.
    parts = {n: {s.data.shape[0] for s in spread.decode(z[:1].repeat(n, 0)).addressable_shards} for n in (16, 3)}
    assert parts == {16: {2}, 3: {3}}


def test_old_style_keys_are_taken(model):
    a = model.sample(jax.random.PRNGKey(3), num=2, steps=2)
    np.testing.assert_array_equal(a, model.sample(jax.random.key(3), num=2, steps=2))


def test_encode_normalises_and_decode_inverts_the_normalisation(model):
    x = jax.random.uniform(jax.random.key(0), (4, 32, 32, 1), minval=-1.0)
    z = model.encode(x)
    chex.assert_shape(z, (4, *model.latent_shape))
    raw = z * model.latent_std[None, None, None] + model.latent_mean[None, None, None]
    posterior = model.autoencoder.apply({"params": model.autoencoder_params}, x, method="encode")
    np.testing.assert_allclose(raw, posterior.mean, atol=1e-4)
    assert float(jnp.abs(model.encode(x, jax.random.key(1)) - z).max()) > 1e-3
    image = model.decode(z)
    chex.assert_shape(image, x.shape)
    assert float(jnp.abs(image).max()) <= 1.0


def test_tiles_and_slices(model):
    x = jax.random.uniform(jax.random.key(0), (2, 48, 32, 1), minval=-1.0)
    z = model.encode(x)
    chex.assert_trees_all_close(model.encode(x, sliced=True), z, atol=1e-4)
    chex.assert_trees_all_close(model.decode(z, sliced=True), model.decode(z), atol=1e-4)
    chex.assert_trees_all_close(model.encode(x, tile=48), z, atol=1e-4)
    chex.assert_shape(model.encode(x, tile=32), z.shape)
    chex.assert_shape(model.decode(z, tile=32, sliced=True), x.shape)
    assert not np.allclose(model.decode(z, tile=16), model.decode(z), atol=1e-4)
    for tile in (8, -16, 33):
        with pytest.raises(InputError, match="multiple of 16 pixels"):
            model.decode(z, tile=tile)


def test_training_latents_are_normalised(model, trained):
    from ldm_jax.data import Loader, open_source
    from ldm_jax.data.source import Subset

    source = open_source("bundled:fashion_mnist")
    subset = Subset(source, np.linspace(0, len(source) - 1, 64).round().astype(np.int64))
    loader = Loader(subset, batch_size=8, image_size=32, channels=1, seed=0)
    _, images, _ = next(loader.in_order(64))
    z = model.encode(jnp.asarray(images), jax.random.key(0))
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0.0, atol=0.05)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1.0, atol=0.05)


def test_save_and_load_is_the_identity(model, tmp_path):
    model.save(tmp_path)
    again = ldm_jax.load(tmp_path)
    chex.assert_trees_all_equal(model.denoiser_params, again.denoiser_params)
    chex.assert_trees_all_equal(model.autoencoder_params, again.autoencoder_params)
    for field in ("denoiser", "autoencoder", "process", "sampling", "conditions", "shape"):
        assert getattr(model, field) == getattr(again, field)
    assert again.class_names[9] == "Ankle boot"
    a, b = (m.sample(jax.random.key(0), num=2, steps=2) for m in (model, again))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [1, 5])
def test_every_named_sampler_runs(model, steps):
    for sampler in ("euler", "ddim", "ddpm", "heun", "dpmpp_2m", "unipc"):
        out = model.sample(jax.random.key(0), labels=[1], steps=steps, sampler=sampler)
        chex.assert_shape(out, (1, 32, 32, 1))


def test_a_damaged_model_is_one_line(model, tmp_path):
    model.save(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    for damage in (data[: len(data) // 2], b"", b"\xff" * 64):
        weights.write_bytes(damage)
        with pytest.raises(InputError) as caught:
            ldm_jax.load(tmp_path)
        assert "\n" not in str(caught.value)
    weights.write_bytes(data)
    (tmp_path / "model_index.json").write_text('{"_class_name": "LatentDiffusion", "format": 2, "vae": []}')
    with pytest.raises(InputError, match="lacks conditions"):
        ldm_jax.load(tmp_path)


def test_wrong_image_sizes(model):
    with pytest.raises(InputError, match="multiples of 4"):
        model.encode(jnp.zeros((1, 30, 32, 1)))


def test_guidance_of_one_evaluates_one_branch(model, monkeypatch):
    """With labels as with texts."""
    from ldm_jax.pipeline import compiled

    seen = []
    monkeypatch.setattr(compiled, "branches", lambda *a: seen.append(a) or guidance.branches(*a))
    model.sample(jax.random.key(0), labels=[1, 2, 3], steps=2, guidance=1)
    assert not seen
    model.sample(jax.random.key(0), labels=[1, 2, 3], steps=2, guidance=1.25)
    assert seen


def test_a_key_and_a_scale_for_each_image(model):
    key, labels = jax.random.key(4), [1, 2, 3]
    whole = model.sample(key, labels=labels, steps=2, guidance=2.0)
    each = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    np.testing.assert_array_equal(model.sample(each, labels=labels, steps=2, guidance=2.0), whole)
    # A model of eight steps hardly knows its classes, so the latents are looked at.
    asked = {"labels": labels, "steps": 2, "output": "latents"}
    even, mixed = (model.sample(key, guidance=scale, **asked) for scale in (2.0, [2.0, 90.0, 2.0]))
    assert [bool(np.abs(a - b).max() > 1e-5) for a, b in zip(mixed, even, strict=True)] == [False, True, False]
    part = model.sample(key, labels=labels, steps=2, guidance=2.0, num=1, first=2)
    assert np.abs(part[0].astype(int) - whole[2]).max() <= 1


def test_classes_by_name(model):
    by_name = model.sample(jax.random.key(0), labels=["Bag", "ankle boot"], steps=2)
    np.testing.assert_array_equal(by_name, model.sample(jax.random.key(0), labels=[8, 9], steps=2))
    assert len(model.sample(jax.random.key(0), labels="Bag", steps=2)) == 1


def test_the_denoiser_as_a_function(model):
    """What everybody wrote by hand: guided estimates, ready for the one sampler of the library."""
    told = model.tell(labels=[3, 4], guidance=2.0)
    denoise = model.denoise(told.cond, told.null, guidance=2.0)
    plan = model.recipe(steps=3).plan()
    noise = jax.random.normal(jax.random.key(0), (2, *model.latent_shape))
    z = ldm_jax.sample(denoise, plan.sampler, plan.schedule, plan.grid, noise, jax.random.key(1))
    wanted = model.sample(jax.random.key(1), labels=[3, 4], steps=3, guidance=2.0, latents=noise, output="latents")
    np.testing.assert_allclose(z, wanted, atol=1e-4)


def test_drawing_within_jit(model):
    draw = jax.jit(lambda key: model.sample(key, labels=[1, 2], steps=2, output="latents"))
    wanted = model.sample(jax.random.key(3), labels=[1, 2], steps=2, output="latents")
    np.testing.assert_allclose(draw(jax.random.key(3)), wanted, atol=1e-5)


def test_drawing_within_jit_is_drawing(model):
    """In several batches, the last of them filled up, and to images."""
    asked = {"labels": [1, 2, 3], "steps": 1, "batch_size": 2}
    for output in ("latents", "images"):
        got = jax.jit(lambda key, output=output: model.sample(key, output=output, **asked))(jax.random.key(3))
        want = model.sample(jax.random.key(3), output=output, **asked)
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got.astype(float), want.astype(float), atol=1e-5 if output == "latents" else 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_decoder_draws_nothing(model, value):
    """Its pictures would be black, or white."""
    params = jax.tree.map(lambda x: x, model.autoencoder_params)
    params["decoder"] = jax.tree.map(lambda x: jnp.full_like(x, value), params["decoder"])
    broken = dataclasses.replace(model, autoencoder_params=params)
    for draw in (
        lambda: broken.sample(jax.random.key(0), labels=[1], steps=1),
        lambda: broken.edit(jax.random.key(0), np.zeros((1, 32, 32, 1), np.uint8), strength=0),
    ):
        with pytest.raises(InputError, match="its decoder gives NaN or infinity"):
            draw()


def test_large_images_are_decoded_in_tiles(model):
    drawn = model.sample(jax.random.key(0), labels=[1], steps=2, height=64, width=64, tile=32)
    chex.assert_shape(drawn, (1, 64, 64, 1))


WRONG = [
    ({"guidance": float("nan")}, "guidance: nan must be finite"),
    ({"guidance": "much"}, "guidance: 'much' must be a number"),
    ({"steps": 2.5}, "steps: 2.5 must be a whole number"),
    ({"num": 0}, "num: 0 must be"),
    ({"labels": ["cat"]}, "label: 'cat'.* must be between 0 and 9, or one of T-shirt"),
    ({"labels": []}, "label: name one or more"),
    ({"image": np.zeros((1, 8, 8, 1))}, "image: this model takes labels"),
    ({"colour": "red"}, "colour: this model takes labels"),
    ({"latents": np.full((1, 8, 8, 4), np.nan, np.float32)}, "draws NaN or infinity"),
    ({"guidance": [1.0, 2.0], "labels": [1, 2, 3]}, "guidance: 2 scales"),
]


@pytest.mark.parametrize(("asked", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_questions_are_one_line(asked, message, model):
    with pytest.raises(InputError, match=message) as caught:
        model.sample(jax.random.key(0), **{"steps": 1, **asked})
    assert "\n" not in str(caught.value)


def test_a_key_that_is_none(model):
    with pytest.raises(InputError, match="key: 0 must be a key"):
        model.sample(0)


def test_guidance_of_a_model_that_never_dropped_its_labels(model):
    label = dataclasses.replace(model.conditions[0], dropout=0.0)
    sure = dataclasses.replace(model, conditions=(label,))
    with pytest.raises(InputError, match="guidance: 2 must be 1, for this model never saw"):
        sure.sample(jax.random.key(0), labels=[1], steps=1, guidance=2.0)
    chex.assert_shape(sure.sample(jax.random.key(0), labels=[1], steps=1, guidance=1.0), (1, 32, 32, 1))


def test_images_are_encoded_in_whatever_range_they_come(model):
    pixels = np.arange(2 * 32 * 32, dtype=np.uint8).reshape(2, 32, 32, 1)
    np.testing.assert_allclose(model.encode(pixels), model.encode(pixels / np.float32(127.5) - 1.0), atol=1e-6)
    with pytest.raises(InputError, match=r"must be uint8, or floats in \[-1, 1\]"):
        model.encode(pixels.astype(np.float32))
    with pytest.raises(InputError, match="must be uint8"):
        model.encode(pixels.astype(np.int32))
    with pytest.raises(InputError, match=r"images: \(32, 32, 1\) must be \[n h w 1\]"):
        model.encode(pixels[0])


def test_an_autoencoder_alone_is_saved_without_conditions(model, tmp_path):
    """What is trained with a denoiser, such as a text encoder, isn't there before it."""
    text = Text(TrainedEncoder(8, 1, 2), 6).build(Given((), lambda: ["a cat"], (32, 32, 1), (8, 8, 4)))
    alone = dataclasses.replace(model, denoiser=None, denoiser_params=None, conditions=(text,))
    alone.save(tmp_path)
    read = ldm_jax.load(tmp_path)
    assert (read.denoiser, read.conditions, read.condition_params) == (None, (), {})
