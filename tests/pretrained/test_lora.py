"""LoRA: the file formats, the merge, training, and back."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, MMDiT, MMDiTConfig, TextEncoder, TextEncoderConfig, apply
from ldm_jax.pretrained import load_part
from ldm_jax.pretrained.lora import init_lora, load_lora, load_loras, merge, save_lora

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OURS = "down0_attention0/block0/attention/query/kernel"


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return load_part(published.write("unet_sd1", tmp_path_factory.mktemp("unet")))


@pytest.fixture(scope="module")
def clip():
    return TextEncoder(TextEncoderConfig(vocabulary=8, positions=4, width=16, depth=2, heads=2, hidden=16))


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return load_part(published.write("dit", tmp_path_factory.mktemp("dit")))


def halves(rank: int = 3, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return (
        random.standard_normal((rank, width)).astype(np.float32),
        random.standard_normal((width, rank)).astype(np.float32),
    )


@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [
        (f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight", None),
        (f"unet.{LAYER}.lora_A.default_0.weight", f"unet.{LAYER}.lora_B.default_0.weight", None),
        (f"base_model.model.{LAYER}.lora_A.mine.weight", f"base_model.model.{LAYER}.lora_B.mine.weight", None),
        (f"{LAYER}.lora.down.weight", f"{LAYER}.lora.up.weight", None),
        (f"unet.{LAYER}.lora_linear_layer.down.weight", f"unet.{LAYER}.lora_linear_layer.up.weight", None),
        (
            f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.down.weight",
            f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.up.weight",
            None,
        ),
        (
            f"lora_unet_{LAYER.replace('.', '_')}.lora_down.weight",
            f"lora_unet_{LAYER.replace('.', '_')}.lora_up.weight",
            f"lora_unet_{LAYER.replace('.', '_')}.alpha",
        ),
        (
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
            "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.alpha",
        ),
    ],
    ids=["peft", "named", "wrapped", "diffusers", "linear", "processor", "kohya", "kohya-compvis"],
)
def test_every_spelling(down, up, alpha, unet, tmp_path):
    """W + (alpha / r) B A, as in the paper, wherever the file is from."""
    module, params = unet
    a, b = halves()
    save_file({down: a, up: b, **({alpha: np.array(1.5, np.float32)} if alpha else {})}, tmp_path / "x.safetensors")
    adapters = load_lora(tmp_path / "x.safetensors", module)
    assert list(adapters) == [OURS]
    merged = flatten_dict(merge(params, adapters, 0.5))
    expected = flatten_dict(params)
    for path, value in merged.items():
        theirs = np.asarray(expected[path])
        if "/".join(path) == OURS:
            theirs = theirs + 0.5 * (1.5 / 3 if alpha else 1.0) * (b @ a).T
        np.testing.assert_allclose(value, theirs, rtol=1e-6, atol=1e-6)


ATTENTION = "encoder.layers.1.self_attn"


@pytest.mark.parametrize(
    "spelling",
    [
        f"text_encoder.text_model.{ATTENTION}.q_proj.lora_linear_layer.{{}}.weight",
        f"text_encoder.text_model.{ATTENTION}.to_q_lora.{{}}.weight",
        f"text_encoder.{ATTENTION}.q_proj.lora.{{}}.weight",
        f"lora_te_text_model_{ATTENTION.replace('.', '_')}_q_proj.lora_{{}}.weight",
        f"lora_te1_text_model_{ATTENTION.replace('.', '_')}_q_proj.lora_{{}}.weight",
    ],
)
def test_text_encoders_beside_a_unet(spelling, unet, clip, tmp_path):
    """One file for both; each network takes its own, with the prefix of text_model and without."""
    a, b = halves(3, 16)
    c, d = halves()
    tensors = {spelling.format("down"): a, spelling.format("up"): b}
    tensors |= {f"unet.{LAYER}.lora_A.weight": c, f"unet.{LAYER}.lora_B.weight": d}
    save_file(tensors, tmp_path / "x.safetensors")
    found = load_loras(tmp_path / "x.safetensors", {"unet": unet[0], "text_encoder": clip})
    assert {part: list(own) for part, own in found.items()} == {
        "unet": [OURS],
        "text_encoder": ["block1/attention/query/kernel"],
    }
    (one,) = found["text_encoder"].values()
    np.testing.assert_allclose(one.down @ one.up, (b @ a).T, rtol=1e-6)
    with pytest.raises(InputError, match="is for text_encoder, which this model lacks"):
        load_loras(tmp_path / "x.safetensors", {"unet": unet[0]})


CONFIG = {"r": 3, "lora_alpha": 24}
SAID = {f"unet.{key}": value for key, value in CONFIG.items()}


@pytest.mark.parametrize(
    ("tensor", "metadata", "beside", "scale"),
    [
        (None, None, None, 1.0),
        (None, None, CONFIG, 8.0),
        (None, SAID, {"r": 3, "lora_alpha": 6}, 8.0),
        (6.0, SAID, CONFIG, 2.0),
        (None, CONFIG, None, 8.0),
        (None, {**SAID, "unet.use_rslora": True}, None, 24 / 3**0.5),
        (None, {**SAID, "unet.alpha_pattern": {"attn1.to_q": 12}}, None, 4.0),
        (None, {**SAID, "unet.alpha_pattern": {"attn1.to_k": 12, ".*attn2.*": 3}}, None, 8.0),
        (None, {"text_encoder.lora_alpha": 9}, CONFIG, 8.0),
        (None, {"text_encoder.lora_alpha": 9}, None, 1.0),
    ],
)
def test_strength(tensor, metadata, beside, scale, unet, tmp_path):
    """alpha / r of the first that tells: alpha tensor, the file's metadata, adapter_config.json; else 1."""
    a, b = halves()
    tensors = {f"unet.{LAYER}.lora_A.weight": a, f"unet.{LAYER}.lora_B.weight": b}
    tensors |= {} if tensor is None else {f"unet.{LAYER}.alpha": np.array(tensor, np.float32)}
    text = {} if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
    save_file(tensors, tmp_path / "adapter_model.safetensors", text)
    if beside is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(beside))
    # A folder of PEFT is its file.
    (one,) = load_lora(tmp_path, unet[0]).values()
    np.testing.assert_allclose(one.down @ one.up, scale * (b @ a).T, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": "8"}, "alpha '8' must be a number"),
        ({"lora_alpha": 8, "alpha_pattern": ["x"]}, "must be an object"),
        ({"lora_alpha": 8, "use_dora": True}, "is a DoRA"),
    ],
)
def test_settings_that_are_none(settings, message, unet, tmp_path):
    a, b = halves()
    tensors = {f"unet.{LAYER}.lora_A.weight": a, f"unet.{LAYER}.lora_B.weight": b}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(InputError, match=message):
        load_lora(tmp_path / "x.safetensors", unet[0])


def test_convolutions(unet, tmp_path):
    module, params = unet
    random = np.random.default_rng(0)
    a = random.standard_normal((2, 8, 3, 3)).astype(np.float32)
    b = random.standard_normal((8, 2, 1, 1)).astype(np.float32)
    name = "unet.down_blocks.0.resnets.0.conv1"
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "x.safetensors")
    adapters = load_lora(tmp_path / "x.safetensors", module)
    merged = merge(params, adapters)["down0_block0"]["conv1"]["kernel"]
    delta = np.einsum("rihw,or->hwio", a, b[:, :, 0, 0])
    np.testing.assert_allclose(merged, params["down0_block0"]["conv1"]["kernel"] + delta, rtol=1e-5, atol=1e-5)


def test_joined_matrices(dit, tmp_path):
    """Separate LoRAs of q and v land in their thirds of the joined matrix; k stays as it is."""
    module, params = dit
    q, v = halves(2, 16), halves(3, 16)
    tensors = {}
    for name, (a, b) in (("to_q", q), ("to_v", v)):
        prefix = f"transformer.transformer_blocks.1.attn1.{name}"
        tensors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    save_file(tensors, tmp_path / "x.safetensors")
    adapters = load_lora(tmp_path / "x.safetensors", module)
    merged = merge(params, adapters)["block1"]["qkv"]["kernel"] - params["block1"]["qkv"]["kernel"]
    delta = np.concatenate([(q[1] @ q[0]).T, np.zeros((16, 16)), (v[1] @ v[0]).T], axis=1)
    np.testing.assert_allclose(merged, delta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
@pytest.mark.parametrize("targets", [r".*(query|out)/kernel", r".*/(conv1|in|embedding)/kernel"])
def test_back_again(style, targets, unet, tmp_path):
    module, _ = unet
    adapters = init_lora(module, 2, jax.random.key(0), targets)
    random = np.random.default_rng(0)
    adapters = {
        path: one._replace(up=random.standard_normal(one.up.shape).astype(np.float32)) for path, one in adapters.items()
    }
    save_lora(module, adapters, tmp_path / "x.safetensors", style)
    names = set(load_file(tmp_path / "x.safetensors"))
    assert all(name.startswith("unet." if style == "diffusers" else "lora_unet_") for name in names)
    back = load_lora(tmp_path / "x.safetensors", module)
    assert back.keys() == adapters.keys()
    for path, one in adapters.items():
        np.testing.assert_array_equal(back[path].down, one.down)
        np.testing.assert_array_equal(back[path].up, one.up)


def test_back_again_joined(dit, tmp_path):
    """A LoRA of a joined matrix is exported as three; their products are its product."""
    module, params = dit
    adapters = init_lora(module, 2, jax.random.key(0), r"block0/qkv/kernel")
    adapters = {path: one._replace(up=jnp.ones(one.up.shape)) for path, one in adapters.items()}
    save_lora(module, adapters, tmp_path / "x.safetensors")
    back = load_lora(tmp_path / "x.safetensors", module)
    one, two = merge(params, adapters), merge(params, back)
    np.testing.assert_allclose(one["block0"]["qkv"]["kernel"], two["block0"]["qkv"]["kernel"], rtol=1e-6, atol=1e-6)


def test_training(dit):
    """Adapters learn, parameters don't: the gradient is with respect to the adapters alone."""
    module, params = dit
    adapters = init_lora(module, 2, jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    cond = Conditioning(label=jnp.array([1, 2]))
    t = jnp.array([10.0, 500.0])
    target = jax.random.normal(jax.random.key(2), (2, 8, 8, 8))

    @jax.jit
    def step(adapters):
        def loss(adapters):
            return jnp.square(apply(module, merge(params, adapters), z, t, cond) - target).mean()

        value, slope = jax.value_and_grad(loss)(adapters)
        return value, jax.tree.map(lambda p, g: p - 0.3 * g, adapters, slope)

    first, adapters = step(adapters)
    np.testing.assert_allclose(first, jnp.square(apply(module, params, z, t, cond) - target).mean(), rtol=1e-5)
    value = first
    for _ in range(10):
        value, adapters = step(adapters)
    assert value < 0.95 * first


def test_files_that_are_wrong(unet, tmp_path):
    module, params = unet
    path = tmp_path / "x.safetensors"
    a, b = halves()
    for tensors, word in (
        ({"unet.nothing.lora_A.weight": a, "unet.nothing.lora_B.weight": b}, "unknown layer nothing"),
        ({f"unet.{LAYER}.lora_A.weight": a}, "half a LoRA"),
        ({f"unet.{LAYER}.dora_scale": a}, "no LoRA tensor"),
        (
            {f"unet.{LAYER}.lora_A.weight": a, f"unet.{LAYER}.lora_B.weight": b[:4]},
            r"of shape .*; this model.s .* has \d+ outputs",
        ),
        (
            {f"unet.{LAYER}.lora_A.weight": a[:, :3], f"unet.{LAYER}.lora_B.weight": b},
            r"of shape .*; this model.s .* has \d+ inputs",
        ),
    ):
        save_file(tensors, path)
        with pytest.raises(InputError, match=word):
            load_lora(path, module)
    with pytest.raises(InputError, match="no tensors"):
        load_lora(path, module, prefix="text_encoder.")
    with pytest.raises(InputError, match="rank"):
        init_lora(module, 0, jax.random.key(0))
    with pytest.raises(InputError, match="no kernel"):
        init_lora(module, 1, jax.random.key(0), "nothing")
    with pytest.raises(InputError, match="no x/kernel"):
        merge(params, {"x/kernel": init_lora(module, 1, jax.random.key(0))[OURS]})


def test_patch_embeddings_are_left_out(tmp_path):
    """No program's files have a place for them, and it must not be the end of a training that says so."""
    sizes = {"width": 16, "depth": 1, "heads": 2, "context_dim": 8, "pooled_dim": 4, "positions": 8, "base_size": 4}
    module = MMDiT(MMDiTConfig(in_channels=4, out_channels=4, time_scale=1.0, **sizes))
    adapters = init_lora(module, 1, jax.random.key(0), ".*kernel")
    assert "patches/kernel" not in adapters and len(adapters) > 4
    save_lora(module, adapters, tmp_path / "x.safetensors")
    assert load_lora(tmp_path / "x.safetensors", module).keys() == adapters.keys()
