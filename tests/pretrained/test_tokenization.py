"""Token ids equal to transformers', from the files of a folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.errors import InputError
from ldm_jax.pretrained.tokenization import load_tokenizer

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
