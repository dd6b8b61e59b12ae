"""Prompts to token ids, from a folder's files alone: CLIP's byte-pair encoding and BERT's word pieces."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Pipeline

from ldm_jax.errors import InputError
from ldm_jax.pretrained.clip_vocabulary import END, START
from ldm_jax.pretrained.tensors import json_object

log = logging.getLogger("ldm_jax")


class TokenIds(NamedTuple):
    """Ids of a batch of texts, all of one length."""

    ids: Int[np.ndarray, "b l"]
    mask: Bool[np.ndarray, "b l"]
    """True where a token is not filling."""


Files: TypeAlias = Mapping[str, bytes]
"""A tokenizer's files, by their names."""
FILES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
SHOWN = 60
"""Characters shown of what is cut off a prompt that is too long."""

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP calls a word: contractions, runs of letters, single digits, runs of anything else."""


class Tokenizer:
    """Texts to ids as transformers' tokenizer of the same folder gives them."""

    def __init__(self, pipeline: Pipeline, length: int, pad: str) -> None:
        pad_id = pipeline.token_to_id(pad)
        if pad_id is None:
            raise InputError(f"tokenizer: its padding token {pad!r} is not in its vocabulary")
        pipeline.no_padding()
        pipeline.no_truncation()
        self._pipeline, self.length, self.pad_id = pipeline, length, pad_id
        added = sorted(token.content for token in pipeline.get_added_tokens_decoder().values())
        # A word of several vectors is written as its first token, as diffusers has it.
        self._several = {token: _row(token, added) for token in added if f"{token}_1" in added}

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self._pipeline.get_vocab_size()

    def id_of(self, token: str) -> int | None:
        """A token's id; None where there is none of that name."""
        return self._pipeline.token_to_id(token)

    def with_tokens(self, tokens: Sequence[str]) -> Tokenizer:
        """The same with new tokens, whose ids follow the others; InputError where one is there already."""
        pipeline, pad = Pipeline.from_str(self._pipeline.to_str()), self._pipeline.id_to_token(self.pad_id) or ""
        for token in tokens:
            if pipeline.token_to_id(token) is not None:
                raise InputError(f"token: {token!r} is a token of this model already; name another")
        add_tokens(pipeline, [(self.size + i, AddedToken(token)) for i, token in enumerate(tokens)])
        return Tokenizer(pipeline, self.length, pad)

    def cut(self, length: int) -> Tokenizer:
        """The same for texts of at most `length` tokens."""
        shorter = copy.copy(self)
        shorter.length = min(self.length, length)
        return shorter

    def __call__(self, texts: Sequence[str], length: int | None = None, pad: bool = True) -> TokenIds:
        """Ids [b l] int32 and mask: cut to `length` (the model's own where None), end token kept. Logs what is cut off.

        pad: fill all up to `length`, as diffusers' pipelines do; False: to the longest of the batch.
        """
        length = self.length if length is None else length
        for token, row in self._several.items():
            texts = [re.sub(rf"{re.escape(token)}(?!_\d)", lambda _, row=row: row, text, flags=re.I) for text in texts]
        self._pipeline.enable_truncation(length)
        encodings = self._pipeline.encode_batch(list(texts))
        self._pipeline.no_truncation()
        for text, encoding in zip(texts, encodings, strict=True):
            if encoding.overflowing:
                # Special tokens stand at (0, 0).
                first = min(start for start, end in encoding.overflowing[0].offsets if end)
                lost = text[first:].strip()
                shown = lost if len(lost) <= SHOWN else f"{lost[:SHOWN].rstrip()}..."
                log.warning("prompt: cut to %d tokens, without %r", length, shown)
        rows = [encoding.ids for encoding in encodings]
        width = length if pad else max(map(len, rows), default=0)
        ids = np.full((len(rows), width), self.pad_id, np.int32)
        mask = np.zeros((len(rows), width), bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        return TokenIds(ids, mask)


def _row(token: str, added: Sequence[str]) -> str:
    """A token and those that follow it: <x> <x>_1 <x>_2."""
    row = [token]
    while f"{token}_{len(row)}" in added:
        row.append(f"{token}_{len(row)}")
    return " ".join(row)


def add_tokens(pipeline: Pipeline, tokens: Iterable[tuple[int, AddedToken]]) -> None:
    """Adds tokens under the ids that they must have; InputError where that can't be."""
    for number, token in sorted(tokens, key=lambda pair: pair[0]):
        if pipeline.token_to_id(token.content) is None:
            (pipeline.add_special_tokens if token.special else pipeline.add_tokens)([token])
        found = pipeline.token_to_id(token.content)
        if found != number:
            raise InputError(
                f"tokenizer: the added token {token.content!r} has id {number} in its files, but {found} here"
            )


def _added(files: Files, where: str, settings: dict[str, Any]) -> list[tuple[int, AddedToken]]:
    """The tokens that a folder's files add to its vocabulary, with their ids."""
    found: dict[int, AddedToken] = {}
    if "added_tokens.json" in files:
        for content, number in _record(files, "added_tokens.json", where).items():
            if type(number) is not int:
                raise InputError(f"tokenizer: {where}/added_tokens.json: {content!r} must have a number")
            found[number] = AddedToken(content)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    decoder = settings.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if not number.isdigit() or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise InputError(f"tokenizer: {where}/tokenizer_config.json: added_tokens_decoder {number!r} is no token")
        found[int(number)] = AddedToken(
            entry["content"], **{flag: bool(entry[flag]) for flag in flags if flag in entry}
        )
    return list(found.items())


def _content(value: Any, default: str) -> str:
    if isinstance(value, dict):
        value = value.get("content", default)
    return value if isinstance(value, str) else default


def _record(files: Files, name: str, where: str) -> dict[str, Any]:
    return json_object(files[name], Path(where) / name)


def tokenizer_files(folder: str | Path) -> dict[str, bytes]:
    """The files of a folder's tokenizer, by their names."""
    return {name: (Path(folder) / name).read_bytes() for name in FILES if (Path(folder) / name).is_file()}


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a folder: tokenizer.json, or vocab.json and merges.txt (CLIP), or vocab.txt (BERT)."""
    return read_tokenizer(tokenizer_files(folder), str(folder))


def read_tokenizer(files: Files, where: str) -> Tokenizer:
    """The tokenizer of files, by their names; where: what InputError calls their folder."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name in files:
            settings |= _record(files, name, where)
    bert = "vocab.txt" in files
    try:
        if "tokenizer.json" in files:
            pipeline = Pipeline.from_str(files["tokenizer.json"].decode())
            bert = pipeline.token_to_id("[CLS]") is not None
        elif bert:
            pipeline = _bert(files, settings)
        elif "vocab.json" in files and "merges.txt" in files:
            pipeline = _clip(files)
        else:
            raise InputError(
                f"tokenizer: {where} has neither tokenizer.json nor vocab.json and merges.txt nor vocab.txt"
            )
        add_tokens(pipeline, _added(files, where, settings))
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise InputError(f"tokenizer: {where} can't be read ({str(error).splitlines()[0][:160]})") from error
    limit = settings.get("model_max_length")
    length = limit if type(limit) is int and 0 < limit <= 8192 else 512 if bert else 77
    return Tokenizer(pipeline, length, _content(settings.get("pad_token"), "[PAD]" if bert else END))


def _frame(first: tuple[str, int], last: tuple[str, int]) -> processors.TemplateProcessing:
    """A start token before every text and an end token after it."""
    return processors.TemplateProcessing(single=f"{first[0]} $A {last[0]}", pair=None, special_tokens=[first, last])


def _clip(files: Files) -> Pipeline:
    vocabulary = json.loads(files["vocab.json"])
    # Neither splitlines nor a bare split: pieces may hold other characters that Unicode takes for spaces.
    lines = [line.rstrip("\r") for line in files["merges.txt"].decode().split("\n")]
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token=END,
    )
    pipeline = Pipeline(model)
    pipeline.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    ids = vocabulary[START], vocabulary[END]
    pipeline.add_special_tokens([START, END])
    pipeline.post_processor = _frame((START, ids[0]), (END, ids[1]))  # type: ignore[assignment]
    return pipeline


def _bert(files: Files, settings: dict[str, Any]) -> Pipeline:
    lines = files["vocab.txt"].decode().split("\n")
    vocabulary = {word: i for i, word in enumerate(line.rstrip("\r") for line in lines) if word}
    lower = settings.get("do_lower_case", True)
    pipeline = Pipeline(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=bool(lower))  # type: ignore[assignment]
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    ids = [(word, vocabulary[word]) for word in ("[CLS]", "[SEP]")]
    pipeline.add_special_tokens([word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if word in vocabulary])
    pipeline.post_processor = _frame(*ids)  # type: ignore[assignment]
    return pipeline
