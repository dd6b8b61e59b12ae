"""The traps of published weights, each proved by what the network does. Outputs as a whole: test_networks.py."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from ldm_jax.models import Conditioning, TextEncoder, TextEncoderConfig, apply
from ldm_jax.models.blocks import activate
from ldm_jax.models.layers import Downsample, GroupNorm, sinusoidal
from ldm_jax.pretrained import load_part, save_part
from ldm_jax.pretrained.names import flat_shapes
from ldm_jax.pretrained.tables.unet import PublishedUNetConfig


def epsilons(module, params, *args, **kwargs) -> dict[str, float]:
    """The epsilon of every GroupNorm that a call goes through, by path."""
    found: dict[str, float] = {}

    def look(call, args, kwargs, context):
        if isinstance(context.module, GroupNorm):
            found["/".join(context.module.path)] = context.module.epsilon
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        jax.eval_shape(lambda: apply(module, params, *args, **kwargs))
    return found


def test_groupnorm_epsilons(tmp_path):
    module, params = load_part(published.write("vae_sd", tmp_path / "vae"))
    assert set(epsilons(module, params, *module.example_inputs()).values()) == {1e-6}
    module, params = load_part(published.write("unet_sd1", tmp_path / "unet"))
    for path, epsilon in epsilons(module, params, *module.example_inputs()).items():
        assert epsilon == (1e-6 if "attention" in path else 1e-5), path


def test_the_second_half_of_geglu_is_the_gate():
    h = jnp.array([[[3.0, -100.0]]])
    np.testing.assert_allclose(activate("geglu", h), 0.0)
    np.testing.assert_allclose(activate("geglu", h[..., ::-1]), -300.0, rtol=2e-3)


def test_tanh_gelu_and_the_others():
    h = jnp.full((1, 1, 1), 2.0)
    exact = 2.0 * jax.scipy.stats.norm.cdf(2.0)
    tanh = 1.0 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (2.0 + 0.044715 * 8.0))
    np.testing.assert_allclose(activate("gelu", h)[0, 0, 0], exact, rtol=1e-6)
    np.testing.assert_allclose(activate("gelu_tanh", h)[0, 0, 0], tanh, rtol=1e-6)
    assert abs(float(exact - tanh)) > 1e-5
    np.testing.assert_allclose(activate("quick_gelu", h)[0, 0, 0], 2.0 / (1 + np.exp(-3.404)), rtol=1e-6)


def test_attention_head_dim_is_a_number_of_heads_or_a_width(tmp_path):
    module, _ = load_part(published.write("unet_sd1", tmp_path / "a", attention_head_dim=4))
    assert module.config.heads == (4, 4)
    module, _ = load_part(published.write("unet_ldm", tmp_path / "b", attention_head_dim=8))
    assert module.config.heads[-1] == module.config.channels[-1] // 8 == 2
    module, _ = load_part(published.write("unet_ldm", tmp_path / "c", attention_head_dim=None))
    assert module.config.heads == (1, 1)


def test_downsampling_pads_at_the_end_in_the_vae_and_around_in_the_unet():
    """A kernel that takes the centre of its window alone shows where the windows lie."""
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    params = {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    vae = Downsample(1, "end").apply({"params": params}, x)
    unet = Downsample(1, "both").apply({"params": params}, x)
    np.testing.assert_array_equal(vae[0, :, :, 0], x[0, 1::2, 1::2, 0])
    np.testing.assert_array_equal(unet[0, :, :, 0], x[0, ::2, ::2, 0])


def test_timestep_embeddings():
    """cos before sin unless told, frequencies from 1 to 1/10000, the last of them reached with shift 1."""
    t = jnp.array([3.0])
    plain, shifted = sinusoidal(t, 8)[0], sinusoidal(t, 8, shift=1.0)[0]
    angles = 3 * 10.0 ** -np.arange(4.0)
    np.testing.assert_allclose(plain, [*np.cos(angles), *np.sin(angles)], rtol=1e-5)
    np.testing.assert_allclose(shifted[np.array([3, 7])], [np.cos(3e-4), np.sin(3e-4)], rtol=1e-5)
    np.testing.assert_array_equal(sinusoidal(t, 8, sine_first=True)[0], jnp.concatenate([plain[4:], plain[:4]]))


def test_dits_embedders_in_every_block(tmp_path):
    """Copies become one; copies that were trained apart stay apart, and the output takes the first block's."""
    folder = published.write("dit", tmp_path / "theirs")
    module, params = load_part(folder)
    assert not module.config.block_embedders and "time" in params

    tensors = dict(published.tensors("dit"))
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    apart, others = load_part(folder)
    assert apart.config.block_embedders and {"time0", "label1"} <= others.keys()
    save_part(apart, others, tmp_path / "ours")
    again, back = load_part(tmp_path / "ours")
    assert again == apart
    np.testing.assert_array_equal(back["label1"]["embedding"], tensors[name])

    z, cond = jnp.ones((1, 4, 4, 4)), Conditioning(label=jnp.array([2]))
    equal = {**others, "label1": others["label0"]}
    one = apply(module, params, z, jnp.array([5.0]), cond)
    np.testing.assert_allclose(apply(apart, equal, z, jnp.array([5.0]), cond), one, rtol=1e-6)
    assert not np.allclose(apply(apart, others, z, jnp.array([5.0]), cond), one)


def test_the_null_class_comes_after_the_classes(tmp_path):
    module, params = load_part(published.write("dit", tmp_path))
    assert module.config.num_classes == 10
    assert params["label"]["embedding"].shape[0] == 11


def test_log_variance_is_clamped(tmp_path):
    module, params = load_part(published.write("vae_sd", tmp_path))
    bias = np.zeros(8, np.float32)
    bias[4:] = [1e3, -1e3, 1e3, -1e3]
    params = {**params, "quant": {**params["quant"], "bias": bias}}
    posterior = apply(module, params, jnp.zeros((1, 8, 8, 3)), method="encode")
    assert float(posterior.logvar.max()) == 20.0 and float(posterior.logvar.min()) == -30.0


def test_final_norm_or_penultimate_state():
    """SD 1 takes the last states through the final norm, SDXL those before the last block, unnormed."""
    module = TextEncoder(TextEncoderConfig(vocabulary=9, positions=4, width=8, depth=2, heads=2, hidden=8))
    ids = jnp.array([[1, 3, 8]])
    params = module.init(jax.random.key(0), ids)["params"]
    one = apply(module, params, ids)
    scaled = {**params, "norm": {"scale": 2 * params["norm"]["scale"], "bias": params["norm"]["bias"]}}
    two = apply(module, scaled, ids)
    np.testing.assert_allclose(two.tokens, 2 * one.tokens, rtol=1e-6)
    np.testing.assert_array_equal(two.penultimate, one.penultimate)
    np.testing.assert_array_equal(one.penultimate, apply(module, params, ids, method="hidden_states")[1])


@pytest.mark.parametrize(("end", "ids", "place"), [(2, [1, 3, 8, 8], 2), (7, [1, 7, 8, 7], 1), (2, [1, 8, 0, 0], 1)])
def test_the_pooled_token(end, ids, place):
    """Old configs say 2 and mean the largest id; new ones name the end token, of which the first counts."""
    config = TextEncoderConfig(vocabulary=9, positions=4, width=8, depth=1, heads=2, hidden=8, end_id=end)
    module, ids = TextEncoder(config), jnp.array([ids])
    encoding = apply(module, module.init(jax.random.key(0), ids)["params"], ids)
    np.testing.assert_array_equal(encoding.pooled[0], encoding.tokens[0, place])


def test_old_names_and_convolutions_for_matrices(tmp_path):
    """query, key, value and proj_attn, as 1x1 convolutions: the files of diffusers before 0.12 and of CompVis."""
    folder = published.write("vae_sd", tmp_path)
    _, params = load_part(folder)
    spelling = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, value in published.tensors("vae_sd").items():
        for new, old in spelling.items():
            name = name.replace(new, old)
        turned = "attentions" in name and value.ndim == 2
        tensors[name] = value[:, :, None, None] if turned else value
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    _, old = load_part(folder)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(one, two)


def test_position_ids_of_old_clip_files(tmp_path):
    folder = published.write("clip_gelu", tmp_path)
    extra = {"text_model.embeddings.position_ids": np.arange(12)[None]}
    save_file(published.tensors("clip_gelu") | extra, folder / "model.safetensors")
    load_part(folder)


def test_shift_factor_is_the_pipelines(tmp_path):
    """SD 3's latents are (z - shift) scale; the network's are raw, so neither key changes it."""
    assert published.description("vae_sd3")["config"]["shift_factor"] == 0.0609
    one = load_part(published.write("vae_sd3", tmp_path / "a"))
    two = load_part(published.write("vae_sd3", tmp_path / "b", shift_factor=0.5, scaling_factor=3.0))
    assert one[0] == two[0]
    save_part(*one, tmp_path / "c", extra={"shift_factor": 0.0609, "scaling_factor": 1.5305})
    assert json.loads((tmp_path / "c" / "config.json").read_text())["shift_factor"] == 0.0609


def test_vq_latents_are_those_before_quantisation(tmp_path):
    module, params = load_part(published.write("vq", tmp_path))
    z = apply(module, params, jax.random.normal(jax.random.key(0), (1, 16, 16, 3)), method="encode")
    quantized = apply(module, params, z, method="quantize")
    assert not np.allclose(z, quantized)
    book = params["codebook"]
    nearest = np.linalg.norm(np.asarray(z)[..., None, :] - book, axis=-1).argmin(-1)
    np.testing.assert_array_equal(quantized, book[nearest])
    one, two = (apply(module, params, latents, method="decode") for latents in (z, quantized))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_linear_and_convolutional_projections_are_one_network(tmp_path):
    """SD 1 stores 1x1 convolutions, SD 2 matrices; the flag changes the file and not the arithmetic."""
    module, params = load_part(published.write("unet_sd1", tmp_path / "a"))
    linear = type(module)(PublishedUNetConfig(**vars(module.config), linear_projection=True))
    assert flat_shapes(linear) == flat_shapes(module)
    save_part(linear, params, tmp_path / "b")
    again, back = load_part(tmp_path / "b")
    assert again == linear
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_last_text_stream_of_sd3_has_scale_before_shift(tmp_path):
    """In every other modulation the shift comes first."""
    module, params = load_part(published.write("sd3", tmp_path))
    z, t = jnp.ones((1, 4, 4, 4)), jnp.array([5.0])
    cond = Conditioning(context=jnp.ones((1, 2, 12)), pooled=jnp.ones((1, 10)))
    one = apply(module, params, z, t, cond)
    flat = dict(flatten_dict(params))
    for leaf in ("kernel", "bias"):
        path = ("block2", "text", "modulation", leaf)
        flat[path] = np.concatenate(np.split(np.asarray(flat[path]), 2, axis=-1)[::-1], axis=-1)
    assert not np.allclose(apply(module, unflatten_dict(flat), z, t, cond), one)
