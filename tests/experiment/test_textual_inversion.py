"""Textual inversion: a word is trained, nothing else; its file is one that diffusers and `load_embedding` read."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import ldm_jax
from ldm_jax.conditions import Size, TextCondition
from ldm_jax.config import Config, Pretrained
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.pretrained.embeddings import Word, read_word, write_word
from ldm_jax.stages import DenoiserTraining, Embedding
from ldm_jax.stages.embedding import initial, with_new_word, with_rows
from tests.experiment.test_finetuning import folders, pictures, train  # noqa: F401

WORD = ("--embedding.token", "<toy>", "--embedding.init", "cat")
EXAMPLE = Example(np.zeros((16, 16, 3), np.uint8))


def texts(model):
    return model.condition(TextCondition)


def judged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["test_loss"] for line in lines if "test_loss" in line]


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_what_is_trained_is_what_a_loaded_word_says(kind, folders, tmp_path):  # noqa: F811
    """The condition within a training step, and a model into which a file with the same vectors was loaded."""
    model = ldm_jax.load(folders[kind])
    embedding = Embedding("<toy>", vectors=2, templates=("a red {} here",))
    sized = tuple(dataclasses.replace(c, pixels=(16, 16)) for c in model.conditions)
    (condition,) = with_new_word(sized, embedding)
    encoders = condition.encoders.encoders
    random = np.random.default_rng(0)
    rows = {
        name: random.standard_normal(initial(e, embedding).shape).astype(np.float32) for name, e in encoders.items()
    }
    params = {name: with_rows(e.params, [-2, -1], rows[name]) for name, e in encoders.items()}
    arrays = {name: ids[None] for name, ids in condition.read(EXAMPLE)[0].items()}
    told = jax.jit(lambda params: condition.apply(params, arrays, None))(params)
    write_word(tmp_path / "learned_embeds.safetensors", Word("<toy>", rows))
    loaded = ldm_jax.load(folders[kind]).load_embedding(tmp_path)
    expected = texts(loaded).ask(Size((2, 2), 4, 8), prompts=["a red <toy> here"]).arrays
    found = {name: leaf for name, leaf in told._asdict().items() if leaf is not None}
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-5)
    assert not np.allclose(told.context, model.text(["a red cat here"]).context)


def test_files(tmp_path):
    one, both = Word("<toy>", {"text_encoder": np.ones((1, 4), np.float32)}), {}
    write_word(tmp_path / "one" / "learned_embeds.safetensors", one)
    assert {k: v.shape for k, v in load_file(tmp_path / "one" / "learned_embeds.safetensors").items()} == {
        "<toy>": (1, 4)
    }
    both = {"text_encoder": np.zeros((2, 4), np.float32), "text_encoder_2": np.ones((2, 6), np.float32)}
    write_word(tmp_path / "both" / "learned_embeds.safetensors", Word("<toy>", both))
    file = load_file(tmp_path / "both" / "learned_embeds.safetensors")
    assert {k: v.shape for k, v in file.items()} == {"clip_l": (2, 4), "clip_g": (2, 6)}
    word = read_word(tmp_path / "both")
    assert word.token == "<toy>"
    for name, array in both.items():
        np.testing.assert_array_equal(word.vectors[name], array)


def test_captions_that_have_the_word_are_used_and_others_not(folders):  # noqa: F811
    (condition,) = with_new_word(ldm_jax.load(folders["sd15"]).conditions, Embedding("<toy>"))

    def ids(*captions):
        return [tuple(row["text_encoder"]) for row in condition.read(EXAMPLE._replace(captions=captions))]

    plain = [tuple(row) for row in condition.encoders.tokens(list(condition.texts))["text_encoder"]]
    assert len(set(plain)) == 8
    assert ids() == ids("a red square") == plain
    own = tuple(condition.encoders.tokens(["my <toy> on a shelf"])["text_encoder"][0])
    assert ids("my <TOY> on a shelf", "a red square") == [own]


@pytest.mark.slow
def test_a_run_and_a_killed_one(folders, pictures, tmp_path, capsys):  # noqa: F811
    """The base is read, never written; the loss at the same times and noise falls; resuming changes nothing."""
    before = {path: path.read_bytes() for path in folders["sd15"].rglob("*") if path.is_file()}
    more = (*WORD, "--stages.denoiser.learning-rate", "3e-2", "--stages.denoiser.checkpoint-every", "4")
    source = shutil.copytree(folders["sd15"], tmp_path / "source")
    seen = ("--stages.denoiser.sample-every", "4")
    assert train(source, pictures, tmp_path / "whole", *more, *seen, steps=12) == 0, capsys.readouterr().err
    assert f"embedding: {tmp_path / 'whole' / 'embedding'}" in capsys.readouterr().out
    found = judged(tmp_path / "whole")
    assert len(found) == 3 and found[-1] < found[0]
    assert {path: path.read_bytes() for path in folders["sd15"].rglob("*") if path.is_file()} == before
    assert not (tmp_path / "whole" / "model").exists()
    # As a kill after the checkpoint of step 8 leaves it, and the source moved away meanwhile.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "embedding")
    shutil.rmtree(tmp_path / "cut" / "denoiser" / "12")
    shutil.rmtree(source)
    assert train(source, pictures, tmp_path / "cut", *more, *seen, steps=12) == 0
    whole, cut = (load_file(tmp_path / n / "embedding" / "learned_embeds.safetensors") for n in ("whole", "cut"))
    np.testing.assert_array_equal(whole["<toy>"], cut["<toy>"])
    model = ldm_jax.load(folders["sd15"])
    start = initial(model.text.encoders["text_encoder"], Embedding("<toy>", "cat"))
    assert whole["<toy>"].shape == start.shape
    assert not np.allclose(whole["<toy>"], start, atol=1e-2)
    told = model.load_embedding(tmp_path / "whole" / "embedding")
    drawn = [m.sample(jax.random.key(0), prompts=["a <toy>"], steps=2, output="latents") for m in (told, model)]
    assert not np.allclose(*drawn)


@pytest.mark.slow
def test_both_encoders_of_sdxl_on_images_alone(folders, tmp_path, capsys):  # noqa: F811
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    more = (*WORD, "--embedding.vectors", "2", "--stages.denoiser.learning-rate", "1e-2")
    assert train(folders["sdxl"], tmp_path, tmp_path / "run", *more, steps=4) == 0, capsys.readouterr().err
    word = read_word(tmp_path / "run" / "embedding")
    assert word.token == "<toy>" and set(word.vectors) == {"text_encoder", "text_encoder_2"}
    encoders = ldm_jax.load(folders["sdxl"]).text.encoders
    for name, array in word.vectors.items():
        assert not np.allclose(array, initial(encoders[name], Embedding("<toy>", "cat", 2)), atol=1e-3)


def test_what_cannot_be_learned_is_one_line(folders, pictures, trained, tmp_path, capsys):  # noqa: F811
    cases = [
        (folders["sd3"], WORD, "pipelines whose encoders are CLIP's: SD 1, SD 2, SDXL"),
        (trained, WORD, "pipelines whose encoders are CLIP's"),
        (folders["sd15"], (*WORD[:3], "a long text"), r"'a long text' is \d+ tokens, the word has 1 vectors"),
        (folders["sd15"], ("--embedding.token", "a cat"), "token: 'a cat' must be one word without spaces"),
        (folders["sd15"], ("--embedding.token", "<|endoftext|>"), "is a token of this model already"),
        (folders["sd15"], ("--embedding.templates", "a photo"), r"templates: 'a photo' must have \{\} for the word"),
        (folders["sd15"], (*WORD, "--adapter.rank", "4"), "denoiser.adapter: it must be left out where a word"),
        (folders["sd15"] / "unet", (*WORD, "--autoencoder-from", folders["sd15"]), "needs a whole pipeline"),
    ]
    for source, more, message in cases:
        assert train(source, pictures, tmp_path / "run", *more) == 2
        err = capsys.readouterr().err
        assert re.search(message, err.splitlines()[-1]), err
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="embedding: it needs a pretrained denoiser"):
        Config(stages=(*Config().stages[:1], DenoiserTraining(embedding=Embedding())))
    config = Config(denoiser=Pretrained("x"), stages=(DenoiserTraining(embedding=Embedding("<a>", vectors=3)),))
    assert Config.from_json(config.to_json()) == config
