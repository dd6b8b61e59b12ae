"""Token ids equal to transformers', from the files of a folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.pretrained.clip_vocabulary import clip_files
from ldm_jax.pretrained.tokenization import load_tokenizer, read_tokenizer

with np.load(Path(__file__).parent.parent / "reference" / "token_ids.npz") as file:
    REFERENCE = json.loads(str(file["json"]))


def write(kind: str, saved: bool, folder: Path) -> Path:
    record = REFERENCE[kind]
    if saved:
        (folder / "tokenizer.json").write_text(record["saved"])
    elif kind == "clip":
        (folder / "vocab.json").write_text(json.dumps(record["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(record["merges"]) + "\n")
    else:
        (folder / "vocab.txt").write_text("\n".join(record["vocab"]) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": record["pad"]}}))
    return folder


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_ids_are_those_of_transformers(kind, saved, tmp_path):
    tokenizer = load_tokenizer(write(kind, saved, tmp_path))
    found = tokenizer(REFERENCE["texts"], 24)
    np.testing.assert_array_equal(found.ids, REFERENCE[kind]["ids"])
    # CLIP fills up with its end token, which the mask doesn't count.
    np.testing.assert_array_equal(found.mask, np.array(REFERENCE[kind]["mask"], bool))


def test_length(tmp_path):
    tokenizer = load_tokenizer(write("clip", False, tmp_path))
    assert tokenizer(["a photo"]).ids.shape == (1, 77)
    assert tokenizer(["a photo", "a"], pad=False).ids.shape == (2, 4)
    assert tokenizer([], 5).ids.shape == (0, 5)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_what_is_cut_is_told(kind, saved, tmp_path, caplog):
    tokenizer = load_tokenizer(write(kind, saved, tmp_path))
    tokenizer(["a photo of a cat"], 7)
    assert not caplog.messages
    tokenizer(["a photo of a cat", "a photo of a cat and a dog"], 7)
    assert caplog.messages == ["prompt: cut to 7 tokens, without 'and a dog'"]


def test_padding_token(tmp_path):
    """SD 2 and SDXL's second encoder fill up with id 0, '!', SD 1 with the end token."""
    write("clip", False, tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert load_tokenizer(tmp_path)(["a"], 5).ids[0, -1] == 0
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "nothing like it"}))
    with pytest.raises(InputError, match="padding token"):
        load_tokenizer(tmp_path)


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="can't be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["clip", "bert"])
@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json", "both"])
def test_added_tokens(kind, where, tmp_path):
    """A word of textual inversion is one id, the one in its files; the others keep theirs."""
    write(kind, False, tmp_path)
    plain = load_tokenizer(tmp_path)
    first = plain.size
    if where != "tokenizer_config.json":
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<cat-toy>": first, "<mat>": first + 1}))
    if where != "added_tokens.json":
        entries = {str(first): {"content": "<cat-toy>"}, str(first + 1): {"content": "<mat>", "normalized": False}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.size == first + 2
    before = plain(["a photo of the cat"], 16).ids[0]
    found = tokenizer(["a photo of the cat", "a photo of <cat-toy>", "<mat> the <cat-toy>"], 16).ids
    np.testing.assert_array_equal(found[0], before)
    end = before[list(before).index(plain.pad_id, 1)] if kind == "clip" else before[6]
    assert list(found[1][:6]) == [*before[:4], first, end]
    assert list(found[2][:5]) == [before[0], first + 1, before[4], first, end]


def test_added_tokens_that_are_none(tmp_path):
    write("clip", False, tmp_path)
    size = load_tokenizer(tmp_path).size
    for record, message in (({"<a>": size + 5}, "has id .* in its files, but"), ({"<a>": "7"}, "must have a number")):
        (tmp_path / "added_tokens.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=message):
            load_tokenizer(tmp_path)


def test_words_of_several_vectors(tmp_path):
    """<x> stands for <x> <x>_1 <x>_2, as diffusers has it."""
    plain = load_tokenizer(write("clip", False, tmp_path))
    tokenizer = plain.with_tokens(["<x>", "<x>_1", "<x>_2", "<y>"])
    first = plain.size
    ids = tokenizer(["a <X> <y>"], 16).ids[0]
    assert list(ids[2:6]) == [first, first + 1, first + 2, first + 3]
    np.testing.assert_array_equal(tokenizer(["a cat"], 16).ids, plain(["a cat"], 16).ids)
    with pytest.raises(InputError, match="'<y>' is a token of this model already"):
        tokenizer.with_tokens(["<y>"])


def test_clips_own_words():
    """Ids that transformers documents for CLIP, and of SD 2, whose texts are filled up with "!"."""
    tokenizer = read_tokenizer(clip_files(), "CLIP")
    assert tokenizer.size == 49408 and tokenizer.length == 77
    ids = tokenizer(["a photo of a cat", "a photograph of an astronaut riding a horse"], 10).ids
    assert ids[0].tolist() == [49406, 320, 1125, 539, 320, 2368, *[49407] * 4]
    assert ids[1].tolist() == [49406, 320, 8853, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert read_tokenizer(clip_files("!"), "CLIP")(["a photo of a cat"]).ids[0, 5:9].tolist() == [2368, 49407, 0, 0]
