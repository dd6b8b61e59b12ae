"""LoRA files of every style: the images that diffusers and peft draw, from tests/reference/finetuned.py; new words."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import pipelines
import pytest
from safetensors.numpy import load_file, save_file

import ldm_jax
from ldm_jax.errors import InputError
from tests.pretrained.hostile import Built, checkpoint, tensor

KEY = jax.random.key(0)


def script() -> Any:
    return pipelines.script("finetuned")


def parts(name: str) -> dict[str, Any]:
    return json.loads(str(pipelines.data()[f"{name}/json"]))["parts"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    room = tmp_path_factory.mktemp("pipelines")
    return {name: ldm_jax.load(pipelines.write(name, room / name)) for name in ("sd15", "sdxl", "sd3")}


def drawn(model, name):
    latents = model.sample(KEY, output="latents", **pipelines.arguments(name))
    return np.asarray(model.decode(latents)) / 2 + 0.5


@pytest.mark.parametrize(("name", "style"), script().STYLES)
def test_the_same_image(name, style, models, tmp_path):
    """To a hundredth of 1/255 on average, where the LoRA changes the image by many 1/255."""
    expected = pipelines.data()[f"{name}/{style}"]
    assert np.abs(expected - pipelines.data()[f"{name}/image"]).mean() > 2 / 255
    path = script().lora(style, parts(name), tmp_path / "pytorch_lora_weights.safetensors")
    image = drawn(models[name].load_lora(path), name)
    assert np.abs(image - expected).mean() < 0.01 / 255


def test_several_add_up_and_the_model_stays(models, tmp_path):
    model = models["sd15"]
    path = script().lora("peft", parts("sd15"), tmp_path / "x.safetensors")
    twice = model.load_lora(path, 0.25).load_lora(tmp_path / "x.safetensors", 0.75)
    for one, two, plain in zip(
        *(jax.tree.leaves(m.denoiser_params) for m in (model.load_lora(path), twice, model)), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
        assert plain.dtype == one.dtype
    nothing = model.load_lora(path, 0.0)
    for one, two in zip(*(jax.tree.leaves(m.denoiser_params) for m in (nothing, model)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_cannot_be_merged_is_one_line(models, tmp_path):
    model = models["sd15"]
    whole = script().lora("kohya", parts("sdxl"), tmp_path / "sdxl.safetensors")
    tensors = load_file(script().lora("peft", parts("sd15"), tmp_path / "x.safetensors"))
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    save_file({**tensors, name.replace("lora_A", "lora_A.two"): tensors[name]}, tmp_path / "twice.safetensors")
    save_file({**tensors, name.replace("lora_A", "lora_C"): tensors[name]}, tmp_path / "odd.safetensors")
    wide = np.ones((4, 17), np.float32)
    save_file({**tensors, name: wide}, tmp_path / "wide.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-8])
    del tensors[name]
    save_file(tensors, tmp_path / "half.safetensors")
    cases = {
        "sdxl": "is for text_encoder_2, which this model lacks",
        "twice": "has two LoRAs of",
        "odd": "lora_C.weight, which is no LoRA tensor that is known",
        "half": "has half a LoRA of",
        "none": "none.safetensors is not a file",
        "cut": "^lora: .*cut.safetensors holds",
        "wide": r"wide.safetensors has .*lora_A.weight of shape \[4, 17\]; this model's .* has 8 inputs",
    }
    for file, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            model.load_lora(tmp_path / f"{file}.safetensors")
        assert "\n" not in str(caught.value)
    for weight in (float("nan"), "much", True):
        with pytest.raises(InputError, match=r"lora: weight .* must be a finite number"):
            model.load_lora(whole, weight)


def embedding(folder, kind):
    """A file of each kind, and the vectors [n 16] in it."""
    vectors = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    if kind == "diffusers":
        vectors = vectors[:1]
        save_file({"<toy>": vectors[0]}, folder / "learned_embeds.safetensors")
        return folder, vectors
    if kind == "a1111":
        save_file({"emb_params": vectors}, folder / "<toy>.safetensors")
        return folder / "<toy>.safetensors", vectors
    param, number = {"*": tensor("0", (2, 16), (16, 1), 32)}, 265
    if kind == "original":
        number = tensor("1", (), (), 1, kind="LongStorage")
        # As the first textual inversions were saved, by PyTorch's own class.
        param = Built("torch.nn.modules.container", "ParameterDict", {"training": True, "_parameters": param})
    tree = {
        "string_to_token": {"*": number},
        "string_to_param": param,
        "name": "toy",
        "step": 7,
    }
    return checkpoint(folder / "<toy>.pt", tree, {"0": vectors.tobytes(), "1": np.int64(265).tobytes()}), vectors


@pytest.mark.parametrize("kind", ["diffusers", "a1111", "a1111-pt", "original"])
def test_words(kind, models, tmp_path):
    """A prompt with the word sees its vectors; what is saved knows it, and the model without it is as it was."""
    model = models["sd15"]
    path, vectors = embedding(tmp_path, kind)
    told = model.load_embedding(path)
    name, encoder = next(iter(told.text.encoders.items()))
    rows = model.text.encoders[name].module.config.vocabulary
    table = np.asarray(encoder.params["tokens"]["embedding"])
    np.testing.assert_array_equal(table[rows:], vectors)
    ids = encoder.ids(["a <toy> the cat"])[0]
    assert list(ids[2 : 2 + len(vectors)]) == list(range(rows, rows + len(vectors)))
    np.testing.assert_allclose(told.text(["a cat"]).context, model.text(["a cat"]).context, atol=1e-6)
    told.save(tmp_path / "saved")
    again = ldm_jax.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.text(["a <toy>"]).context, told.text(["a <toy>"]).context)
    assert again.load_embedding(path, "<other>").text.encoders[name].tokenizer.size == rows + 2 * len(vectors)
    with pytest.raises(InputError, match="'<toy>' is a token of this model already"):
        told.load_embedding(path)


def test_words_of_both_encoders(models, tmp_path):
    """clip_l and clip_g of SDXL's files."""
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal((1, 16)).astype(np.float32) for name in ("clip_l", "clip_g")}
    save_file(tensors, tmp_path / "toy.safetensors")
    told = models["sdxl"].load_embedding(tmp_path / "toy.safetensors", "<toy>")
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        encoder = told.text.encoders[part]
        np.testing.assert_array_equal(encoder.params["tokens"]["embedding"][-1:], tensors[name])
        assert encoder.ids(["<toy>"])[0][1] == len(encoder.params["tokens"]["embedding"]) - 1


def test_embeddings_that_are_none(models, tmp_path):
    cases = {
        "wide": ({"<x>": np.ones(7, np.float32)}, "has 7 features a token, this model's encoders take text_encoder 16"),
        "two": ({"<x>": np.ones(16, np.float32), "<y>": np.ones(16, np.float32)}, "must hold one word"),
        "odd": ({"<x>": np.ones((1, 2, 8), np.float32)}, r"must be floats \[d\] or \[n d\]"),
        "nan": ({"<x>": np.full(16, np.nan, np.float32)}, "is not finite"),
    }
    for name, (tensors, message) in cases.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=message):
            models["sd15"].load_embedding(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="token must not be empty"):
        models["sd15"].load_embedding(embedding(tmp_path, "diffusers")[0], " ")
