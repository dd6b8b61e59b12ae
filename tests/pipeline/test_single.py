"""A whole model in one file under CompVis names draws what the same weights in a folder draw."""

from __future__ import annotations

import jax
import numpy as np
import pipelines
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save_file

import ldm_jax
from ldm_jax import cli
from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, AutoencoderConfig, TextEncoder, TextEncoderConfig, UNet, UNetConfig
from ldm_jax.pipeline import single
from ldm_jax.pipeline.single import SD1
from ldm_jax.pretrained import save_part
from ldm_jax.pretrained.names import Numbers, flat_shapes, sources
from ldm_jax.pretrained.parts import published_tensors
from ldm_jax.pretrained.single_file import SECTIONS
from ldm_jax.pretrained.tables.unet import PublishedUNetConfig
from ldm_jax.pretrained.tokenization import tokenizer_files
from ldm_jax.pretrained.writing import write_json

KEY = jax.random.key(0)


def written(modules, folder, prefixes=None):
    """Random weights of the modules: parts in a folder, and all of them under CompVis names."""
    whole, random = {}, np.random.default_rng(0)
    for part, module in modules.items():
        params = unflatten_dict(
            {
                tuple(path.split("/")): (0.3 * random.standard_normal(shape)).astype(np.float32)
                for path, shape in flat_shapes(module).items()
            }
        )
        settings = {"unet": {"sample_size": SD1.size}, "vae": SD1.vae}.get(part, {})
        save_part(module, params, folder / part, settings)
        prefix = (prefixes or {}).get(part, "")
        section = next(one for one in SECTIONS if one.part == part and one.prefix.startswith(prefix))
        wanted = sources(module, section.table(module.config), Numbers(levels=2))
        made = published_tensors(params, wanted)
        whole |= {section.prefix + name: np.ascontiguousarray(make()) for name, (_, make) in made.items()}
    return whole


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """SD 1 made tiny: a file, and a folder with the same weights."""
    room = tmp_path_factory.mktemp("single")
    folder = room / "folder"
    vocabulary = len(pipelines.script().token_ids.clip_files()[0])
    modules = {
        "unet": UNet(UNetConfig(4, 4, (32, 32), 1, (1, 0), 1, (8, 8), 64, groups=32, time_scale=1.0)),
        "vae": Autoencoder(AutoencoderConfig(latent_channels=4, channels=32, multipliers=(1, 1), blocks=1, groups=32)),
        "text_encoder": TextEncoder(
            TextEncoderConfig(
                vocabulary,
                16,
                64,
                2,
                1,
                hidden=96,
                end_id=vocabulary - 1,
                start_id=vocabulary - 2,
                pad_id=vocabulary - 1,
            )
        ),
    }
    save_file(written(modules, folder), room / "sd15.safetensors")
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"]}
    index |= {part: ["x", type(module).__name__] for part, module in modules.items()}
    pipelines.script().tokenizer_files(folder / "tokenizer", "<|endoftext|>")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", SD1.scheduler)
    write_json(folder / "model_index.json", index)
    like = room / "like"
    pipelines.script().tokenizer_files(like / "tokenizer", "<|endoftext|>")
    return room / "sd15.safetensors", folder, like


def test_the_same_model(both):
    file, folder, like = both
    one, two = ldm_jax.load(file, like=like), ldm_jax.load(folder)
    for field in ("autoencoder", "denoiser", "process", "sampling", "shape", "published"):
        assert getattr(one, field) == getattr(two, field), field
    np.testing.assert_array_equal(one.latent_std, two.latent_std)
    for a, b in zip(*(jax.tree.leaves((m.denoiser_params, m.autoencoder_params)) for m in (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.text(["a cat"]).context, two.text(["a cat"]).context)


def test_clips_words_are_known(both, monkeypatch):
    """Without a folder, as a real file's vocabulary is CLIP's; this one's is not, so its own stands for it."""
    file, folder, like = both
    asked = []
    monkeypatch.setattr(single, "clip_files", lambda pad: asked.append(pad) or tokenizer_files(like / "tokenizer"))
    one, two = ldm_jax.load(file), ldm_jax.load(folder)
    assert asked == ["<|endoftext|>"] and one.scheduler == two.scheduler
    np.testing.assert_array_equal(one.text(["a cat"]).context, two.text(["a cat"]).context)


def test_by_the_command(both, tmp_path, capsys, monkeypatch):
    # One device compiles faster than eight.
    monkeypatch.setattr("ldm_jax.pipeline.everywhere", lambda: None)
    file, folder, like = both
    few = ["--prompt", "a cat", "--steps", "2", "--guidance", "1", "--height", "16", "--width", "16"]
    drawn = []
    for i, model in enumerate(([str(file), "--like", str(like)], [str(folder)])):
        assert cli.run("sample", [*model, *few, "--out", str(tmp_path / f"{i}.npz")]) == 0, capsys.readouterr().err
        with np.load(tmp_path / f"{i}.npz") as held:
            drawn.append(held["arr_0"])
    np.testing.assert_array_equal(*drawn)


def test_sdxls_refiner(tmp_path, monkeypatch):
    """Its second encoder alone, and a score in place of the size wanted."""
    clip = {"width": 64, "depth": 2, "heads": 1, "hidden": 96, "projection": 64, "activation": "gelu"}
    vocabulary = len(pipelines.script().token_ids.clip_files()[0])
    encoder = TextEncoderConfig(vocabulary, 16, **clip, end_id=vocabulary - 1, start_id=vocabulary - 2, pad_id=0)
    unet = {"context_dim": 64, "added_dim": 64 + 5 * 256, "time_scale": 1.0, "linear_projection": True}
    modules = {
        "unet": UNet(PublishedUNetConfig(4, 4, (64, 64), 1, (1, 0), 1, (1, 1), **unet)),
        "vae": Autoencoder(AutoencoderConfig(latent_channels=4, channels=32, multipliers=(1, 1), blocks=1, groups=32)),
        "text_encoder_2": TextEncoder(encoder),
    }
    prefixes = {"text_encoder_2": "conditioner.embedders.0.model."}
    save_file(written(modules, tmp_path / "parts", prefixes), tmp_path / "refiner.safetensors")
    pipelines.script().tokenizer_files(tmp_path / "own", "!")
    monkeypatch.setattr(single, "clip_files", lambda pad: tokenizer_files(tmp_path / "own"))
    model = ldm_jax.load(tmp_path / "refiner.safetensors")
    assert model.published == "StableDiffusionXLImg2ImgPipeline"
    told = model.tell(4.0, prompts=["a cat"])
    assert told.cond.pooled.shape == (1, 64) and told.cond.context.shape == (1, 16, 64)
    np.testing.assert_array_equal(told.cond.time_ids, [[256, 256, 0, 0, 6]])
    np.testing.assert_array_equal(told.null.time_ids, [[256, 256, 0, 0, 2.5]])


def test_what_a_file_lacks_is_one_line(both, tmp_path):
    file, _, like = both
    cases = [
        (lambda: ldm_jax.load(file), "tokenizer: it has 49408 tokens, the embedding of text_encoder"),
        (lambda: ldm_jax.load(file, like=tmp_path), "like: .* has nothing of a pipeline"),
        (lambda: ldm_jax.load(file, like=like, variant="fp16"), "variant: 'fp16' can't be used"),
        (lambda: ldm_jax.load(like, like=like), "like: it is for single files"),
    ]
    for action, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
