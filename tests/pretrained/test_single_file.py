"""Single-file checkpoints: CompVis names against diffusers' own converters; DiT and LightningDiT against formulas."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, DiT, DiTConfig, TextEncoder, TextEncoderConfig, apply
from ldm_jax.pretrained.conversion import convert
from ldm_jax.pretrained.names import Numbers, flat_shapes, sources
from ldm_jax.pretrained.parts import load_part, published_tensors
from ldm_jax.pretrained.single_file import SECTIONS, load_single, open_single, save_original
from ldm_jax.pretrained.tables import format_of

ROOM = Path(__file__).parent.parent / "reference"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"reference_{name}", ROOM / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECKPOINTS = {kind: (prefix, module) for kind, prefix, module in script("single_file").checkpoints()}
DIT = script("original_dit")


def random_params(module):
    from flax.traverse_util import unflatten_dict

    random = np.random.default_rng(0)
    shapes = flat_shapes(module)
    return unflatten_dict(
        {tuple(path.split("/")): random.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
    )


def compvis(kind: str, params) -> dict[str, np.ndarray]:
    prefix, module = CHECKPOINTS[kind]
    section = next(s for s in SECTIONS if s.prefix == prefix)
    config = module.config
    levels = len(getattr(config, "multipliers", ())) or len(getattr(config, "channels", ())) or 1
    wanted = sources(module, section.table(config), Numbers(levels=levels))
    made = published_tensors(params, wanted)
    return {prefix + name: np.ascontiguousarray(make()) for name, (_, make) in made.items()}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_names_are_those_of_diffusers_converters(kind):
    """Both tables name the same tensors: CompVis -> ours -> diffusers is what diffusers makes of CompVis."""
    with np.load(ROOM / "single_file.npz") as file:
        pairs = json.loads(str(file["json"]))[kind]
    prefix, module = CHECKPOINTS[kind]
    section = next(s for s in SECTIONS if s.prefix == prefix)
    published = format_of(module)
    assert published is not None
    numbers = published.numbers(module.config)
    theirs = sources(module, published.table(module.config), numbers)
    singles = sources(module, section.table(module.config), numbers)
    ours = {}
    for path, source in theirs.items():
        (name,), single = source.names, singles[path]
        rows = source.published_shape()[0]
        turned = (source.layout == "linear") != (single.layout == "linear") and single.layout != "point"
        ours[name] = [prefix + single.names[0], single.share[0] * rows, turned]
    if kind == "open_clip":
        pairs = {name if name.startswith("text_") else f"text_model.{name}": pair for name, pair in pairs.items()}
        ours = {name: pair for name, pair in ours.items() if name in pairs}
        assert len(ours) == len(pairs)
    assert ours == pairs


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_single_files(kind, tmp_path):
    """The config is read off the shapes, and every tensor finds its place; schedule tables are passed over."""
    _, module = CHECKPOINTS[kind]
    params = random_params(module)
    tensors = compvis(kind, params)
    extra = {"betas": np.zeros(3, np.float32), "model_ema.decay": np.zeros((), np.float32)}
    save_file({**tensors, **extra}, tmp_path / "x.safetensors")
    if kind == "open_clip":
        depth = module.config.depth - 1
        module = TextEncoder(dataclasses.replace(module.config, depth=depth, projection=0))
        params = {key: value for key, value in params.items() if key not in ("project", f"block{depth}")}
    ((found, loaded),) = load_single(tmp_path / "x.safetensors").values()
    assert found == module
    one, two = flatten_dict(loaded), flatten_dict(params)
    assert one.keys() == two.keys()
    for key, value in two.items():
        np.testing.assert_array_equal(one[key], value)

    save_file({**tensors, "control_model.x": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"control_model\.x"):
        load_single(tmp_path / "x.safetensors")


@pytest.mark.parametrize("wrapper", ["", "state_dict."])
def test_averages_beside_the_weights(wrapper, tmp_path, caplog):
    """LDM's names of averages have no dots; they are taken unless the others are asked for, and a line says so."""
    _, module = CHECKPOINTS["sd1"]
    params = random_params(module)
    plain = compvis("sd1", params)
    averages = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": 2 * value for name, value in plain.items()}
    counters = {"model_ema.decay": np.zeros((), np.float32), "model_ema.num_updates": np.zeros((), np.int32)}
    tensors = {wrapper + name: value for name, value in (plain | averages | counters).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    for ema, factor in ((True, 2), (False, 1)):
        caplog.clear()
        _, loaded = load_single(tmp_path / "x.safetensors", ema=ema)["unet"]
        assert [f"(ema={ema})" in message for message in caplog.messages] == [True]
        for one, two in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(one, factor * two)
    del tensors[f"{wrapper}model_ema.diffusion_modelout2bias"]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no average of model\.diffusion_model\.out\.2\.bias"):
        load_single(tmp_path / "x.safetensors")


def test_averages_of_a_dit(tmp_path):
    with np.load(ROOM / "original_dit.npz") as file:
        shapes = json.loads(str(file["dit/0/shapes"]))
    plain = {key: DIT.weights(key, tuple(shape)) for key, shape in shapes.items()}
    both = {f"model.{key}": value for key, value in plain.items()} | {f"ema.{key}": 2 * v for key, v in plain.items()}
    save_file(both, tmp_path / "x.safetensors")
    one, two = (
        jax.tree.leaves(load_single(tmp_path / "x.safetensors", heads=DIT.HEADS, ema=ema)["transformer"][1])
        for ema in (True, False)
    )
    for average, value in zip(one, two, strict=True):
        np.testing.assert_array_equal(average, 2 * value)


@pytest.mark.parametrize("kind", ["vae", "sd1"])
@pytest.mark.parametrize("wrapper", ["", "state_dict."])
def test_one_network_alone(kind, wrapper, tmp_path):
    """A VAE or a UNet without the prefix of whole checkpoints; what its training left beside it is passed over."""
    prefix, module = CHECKPOINTS[kind]
    params = random_params(module)
    tensors = {name.removeprefix(prefix): value for name, value in compvis(kind, params).items()}
    if kind == "vae":
        tensors |= {
            "loss.discriminator.main.0.weight": np.zeros(1, np.float32),
            "loss.logvar": np.zeros((), np.float32),
        }
    save_file({wrapper + name: value for name, value in tensors.items()}, tmp_path / "x.safetensors")
    ((part, (found, loaded)),) = load_single(tmp_path / "x.safetensors").items()
    assert part == ("vae" if kind == "vae" else "unet") and found == module
    for one, two in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, two)
    # Converted it is a component folder, as published ones are.
    convert(tmp_path / "x.safetensors", tmp_path / "part", echo=lambda line: None)
    for one, two in zip(jax.tree.leaves(load_part(tmp_path / "part")[1]), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, two)
    save_file({**tensors, "more.weight": np.zeros(1, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"has besides 1 tensors, more\.weight first"):
        load_single(tmp_path / "x.safetensors")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix, tmp_path):
    _, module = CHECKPOINTS["sd1"]
    tensors = compvis("sd1", random_params(module))
    save_file({prefix + name: value for name, value in tensors.items()}, tmp_path / "x.safetensors")
    assert set(open_single(tmp_path / "x.safetensors")) == {"unet"}


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_pointers_are_named(name, tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="is a pointer of Git LFS, the file itself was not fetched"):
        open_single(tmp_path / name)


def test_a_whole_checkpoint(tmp_path):
    """SD 1's three parts in one file."""
    text = TextEncoder(TextEncoderConfig(width=64, depth=2, heads=1, hidden=96, vocabulary=40, positions=8))
    published = format_of(text)
    assert published is not None
    made = published_tensors(random_params(text), sources(text, published.table(text.config)))
    whole = {f"cond_stage_model.transformer.{name}": np.ascontiguousarray(make()) for name, (_, make) in made.items()}
    for kind in ("sd1", "vae"):
        whole |= compvis(kind, random_params(CHECKPOINTS[kind][1]))
    save_file(whole, tmp_path / "x.safetensors")
    parts = open_single(tmp_path / "x.safetensors")
    assert set(parts) == {"unet", "vae", "text_encoder"}
    assert parts["text_encoder"].module.config.activation == "quick_gelu"


@pytest.mark.parametrize("name", DIT.CASES)
@pytest.mark.parametrize("wrapper", ["", "ema."])
def test_original_dits(name, wrapper, tmp_path):
    with np.load(ROOM / "original_dit.npz") as file:
        data = {key.removeprefix(f"{name}/"): file[key] for key in file if key.startswith(name)}
    for i in range(2):
        shapes = json.loads(str(data[f"{i}/shapes"]))
        tensors = {key: DIT.weights(key, tuple(shape)) for key, shape in shapes.items()}
        if name == "lightning":
            tensors |= {"feat_rope.freqs_cos": np.zeros((16, 8), np.float32)}
        save_file({wrapper + key: value for key, value in tensors.items()}, tmp_path / "x.safetensors")
        module, params = load_single(tmp_path / "x.safetensors", heads=DIT.HEADS)["transformer"]
        cond = Conditioning(label=data[f"{i}/label"])
        output = jax.jit(lambda z, t, c, m=module, p=params: apply(m, p, z, t, c))(data[f"{i}/z"], data[f"{i}/t"], cond)
        expected = data[f"{i}/output"]
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

        side = int(tensors["pos_embed"].shape[1] ** 0.5)
        save_original(module, params, tmp_path / "back.safetensors", side)
        back = load_file(tmp_path / "back.safetensors")
        tensors.pop("feat_rope.freqs_cos", None)
        assert back.keys() == tensors.keys()
        for key, value in tensors.items():
            if key != "pos_embed":
                np.testing.assert_array_equal(back[key], value)
            np.testing.assert_allclose(back[key], value, atol=1e-6)


def test_heads_that_shapes_do_not_tell(tmp_path):
    with np.load(ROOM / "original_dit.npz") as file:
        shapes = json.loads(str(file["dit/0/shapes"]))
    save_file({k: DIT.weights(k, tuple(s)) for k, s in shapes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="heads"):
        load_single(tmp_path / "x.safetensors")


def test_only_original_dits_are_saved_as_such(tmp_path):
    module = DiT(DiTConfig(in_channels=4, out_channels=4, width=16, depth=1, heads=2))
    with pytest.raises(InputError, match="time_scale"):
        save_original(module, {}, tmp_path / "x.safetensors", 4)
