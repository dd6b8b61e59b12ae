"""Texts: the tokenizer fitted to captions, encoders trained and frozen, what is saved of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.cache import cache_condition
from ldm_jax.conditions import Given, Size, stack
from ldm_jax.conditions.text import FrozenEncoder, SavedText, Text, TrainedEncoder, TrainedTextCondition
from ldm_jax.conditions.vocabulary import fit
from ldm_jax.data import Example, Loader
from ldm_jax.data.arrays import ArraySource
from ldm_jax.errors import InputError
from ldm_jax.models import TextEncoder, TextEncoderConfig, apply
from ldm_jax.pretrained import load_part, save_part
from ldm_jax.pretrained.tokenization import load_tokenizer

CAPTIONS = ("a large red circle", "a small red star", "a Large blue star!", "")
GIVEN = Given((), lambda: CAPTIONS, (8, 8, 3), (4, 4, 2))
SIZE = Size((4, 4), 2, 2)
NOTHING = np.zeros((8, 8, 3), np.uint8)


def example(caption):
    return Example(NOTHING, -1, (caption,) if caption else ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with its tokenizer, as transformers keeps them."""
    path = tmp_path_factory.mktemp("encoder")
    tokenizer, files = fit(CAPTIONS, 100, 16)
    config = TextEncoderConfig(
        tokenizer.size, 12, 8, 1, 2, hidden=16, causal=False, norm_first=False, segments=2, pooling="none"
    )
    module = TextEncoder(config)
    save_part(module, module.init(jax.random.key(0), *module.example_inputs())["params"], path)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def test_words_are_tokens_and_rare_ones_are_spelt():
    tokenizer, files = fit(CAPTIONS, 100, 8)
    assert fit(reversed(CAPTIONS), 100, 8)[1] == files
    ids, mask = tokenizer(["a LARGE red circle", "dab", "zebra"])
    chex.assert_shape(ids, (3, 8))
    assert mask.sum(axis=1).tolist() == [6, 5, 3]
    again = fit(CAPTIONS, 100, 8)[0](["a large red circle"]).ids
    np.testing.assert_array_equal(again[0], ids[0])
    # z was never seen: the whole word is unknown.
    assert ids[2, 1] == 1
    # With too little room for words all is letters.
    assert fit(CAPTIONS, 1, 8)[0](["red"]).mask.sum() == 5


def test_the_fitted_tokenizer_reads_itself_back(tmp_path):
    tokenizer, files = fit(CAPTIONS, 100, 8)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    read = load_tokenizer(tmp_path)
    assert (read.length, read.pad_id, read.size) == (8, tokenizer.pad_id, tokenizer.size)
    np.testing.assert_array_equal(read(CAPTIONS).ids, tokenizer(CAPTIONS).ids)


def test_what_fills_a_text_up_changes_nothing():
    """The same text in more room has the same states."""
    params = None
    for length in (6, 9):
        condition = Text(TrainedEncoder(8, 1, 2), length).build(GIVEN)
        if params is None:
            params = TrainedTextCondition.init(condition, jax.random.key(0))
            few = {**params, "places": {"embedding": np.zeros((6, 8), np.float32)}}
            short = condition.apply(few, condition.embed(stack(condition.read(example("a red star")))), None)
        else:
            many = {**params, "places": {"embedding": np.zeros((9, 8), np.float32)}}
            long = condition.apply(many, condition.embed(stack(condition.read(example("a red star")))), None)
    assert short.context_mask.sum() == long.context_mask.sum() == 5
    np.testing.assert_allclose(short.context[:, :5], long.context[:, :5], atol=1e-6)


@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_saved_and_opened(kind, folder, tmp_path):
    encoder = TrainedEncoder(8, 1, 2) if kind == "trained" else FrozenEncoder(str(folder))
    condition = Text(encoder, 8, 0.2).build(GIVEN)
    params = condition.init(jax.random.key(0))
    assert bool(params) == (kind == "trained")
    saved = condition.save(params, tmp_path)
    assert saved == SavedText(kind == "trained", 8, 0.2)
    opened, own = saved.open(tmp_path, lambda name: load_part(tmp_path / name))
    assert opened.dropout == 0.2 and type(opened) is type(condition)
    asks = {"prompts": ["a red star", "blue"], "negative": "circle"}
    wanted, got = condition.ask(SIZE, **asks), opened.ask(SIZE, **asks)
    chex.assert_trees_all_close(dict(got.arrays), dict(wanted.arrays))
    told = [c.apply(p, a.arrays, None) for c, p, a in ((condition, params, wanted), (opened, own, got))]
    chex.assert_trees_all_close(*told, atol=1e-6)
    chex.assert_shape(told[0].context, (2, 8, 8))


def test_a_frozen_encoder_reads_each_distinct_caption_once(folder, tmp_path, monkeypatch):
    condition = Text(FrozenEncoder(str(folder)), 8).build(GIVEN)
    texts = ("a red star", "a blue star", "a red star", "", "a blue star", "a red star") * 5
    source = ArraySource(np.zeros((len(texts), 8, 8, 3), np.uint8), None, [(text,) if text else () for text in texts])
    loader = Loader(source, batch_size=2, image_size=8, channels=3, seed=0)
    rows = []
    encode = type(condition.encoders).encode
    monkeypatch.setattr(
        type(condition.encoders),
        "encode",
        lambda self, tokens: rows.append(len(next(iter(tokens.values())))) or encode(self, tokens),
    )
    told = cache_condition(tmp_path / "text", condition, loader, "{}")
    assert sum(rows) == 3
    assert cache_condition(tmp_path / "text", condition, loader, "{}").rows.shape == told.rows.shape == (30, 1)
    assert sum(rows) == 3
    mask = condition.ask(SIZE, prompts=["a red star"]).arrays["context_mask"]
    np.testing.assert_array_equal(told.arrays["context_mask"][told.rows[0, 0]], mask[0])


def test_frozen_agrees_with_the_encoder_itself(folder):
    condition = Text(FrozenEncoder(str(folder)), 8).build(GIVEN)
    module, params = load_part(folder)
    ids, mask = load_tokenizer(folder)(["a red star"], 8)
    wanted = apply(module, params, jnp.asarray(ids), jnp.asarray(mask)).tokens
    got = condition.ask(SIZE, prompts=["a red star"]).arrays
    np.testing.assert_allclose(got["context"], wanted, atol=1e-5)
    null = condition.null(got)
    np.testing.assert_allclose(null["context"], condition.ask(SIZE, prompts=[""]).arrays["context"], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Text().build(GIVEN._replace(captions=None)), "data have no captions"),
        (lambda: FrozenEncoder(), "encoder.path: it must name a folder"),
        (lambda: Text(FrozenEncoder("package:no_such_thing")).build(GIVEN), "'no_such_thing' is not installed"),
        (lambda: Text(FrozenEncoder("/nowhere")).build(GIVEN), "/nowhere has no config.json"),
        (lambda: TrainedEncoder(width=10, heads=3), "width: 10 must be a multiple of heads"),
        (lambda: Text(length=2), "length: 2 must be at least 3"),
        (lambda: Text().build(GIVEN).ask(SIZE), "prompt: this model draws from texts"),
        (lambda: Text().build(GIVEN).ask(SIZE, prompts="one"), "prompt: give a list"),
    ],
)
def test_wrong_input_is_one_line(make, message):
    with pytest.raises(InputError, match=message):
        make()
