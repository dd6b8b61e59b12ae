"""The files of CLIP's tokenizer, which all of Stable Diffusion's text encoders of that name share.

The merges are OpenAI's (LICENSE-clip); the vocabulary follows from them, as in Radford et al. 2021 (arXiv 2103.00020):
each byte as a character, each of them as the end of a word, each merge, start and end.
"""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def byte_characters() -> list[str]:
    """The character that stands for each byte, those that can be seen first, as GPT-2 orders them."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    return [chr(byte) for byte in seen] + [chr(256 + i) for i in range(256 - len(seen))]


@functools.cache
def clip_files(pad: str = END) -> dict[str, bytes]:
    """vocab.json, merges.txt and their settings, by name. pad: END, or "!" in SD 2 and SDXL's second."""
    merges = gzip.decompress(Path(__file__).with_name("clip_merges.txt.gz").read_bytes()).decode()
    single = byte_characters()
    joined = [line.replace(" ", "") for line in merges.split("\n") if line]
    words = [*single, *(character + "</w>" for character in single), *joined, START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, **special}
    return {
        "vocab.json": json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False).encode(),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
        "special_tokens_map.json": json.dumps(special).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
