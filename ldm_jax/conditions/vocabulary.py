"""A tokenizer fitted to a data set's captions: whole words where they are frequent, letters where they are not."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer as Pipeline
from tokenizers import models, normalizers, pre_tokenizers, processors

from ldm_jax.pretrained.tokenization import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def words_of(captions: Iterable[str]) -> collections.Counter[str]:
    """How often each word occurs; words as BERT has them, in lower case without accents (arXiv 1810.04805)."""
    normal, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts: collections.Counter[str] = collections.Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(normal.normalize_str(caption)))
    return counts


def fit(captions: Iterable[str], most: int, length: int) -> tuple[Tokenizer, Mapping[str, bytes]]:
    """A tokenizer of at most `most` tokens and texts of `length`, and the files that `load_tokenizer` reads it from.

    Word pieces (Schuster & Nakajima 2012): every letter of the captions, at a word's start and within it, then the most
    frequent words, of equally frequent ones the first by the alphabet. So a rare word is spelt, and none is unknown
    whose letters have been seen. A function of the captions' words alone, not of their order.
    """
    counts = words_of(captions)
    letters = sorted({letter for word in counts for letter in word})
    tokens = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    frequent = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    tokens += frequent[: max(most - len(tokens), 0)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pipeline = Pipeline(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    pipeline.normalizer = normalizers.BertNormalizer()  # type: ignore[assignment]
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    pipeline.add_special_tokens(list(SPECIAL))
    frame = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    pipeline.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair=None, special_tokens=frame
    )
    settings = {"model_max_length": length, "pad_token": "[PAD]", "tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": pipeline.to_str(), "tokenizer_config.json": json.dumps(settings, indent=2)}
    return Tokenizer(pipeline, length, "[PAD]"), {name: text.encode() for name, text in files.items()}
