"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): files that hold the embedding of a new word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.tensors import FLOATS, Info, read
from ldm_jax.pretrained.writing import write_safetensors

ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""SDXL's names in files for both encoders."""
UNNAMED = ("emb_params", "string_to_param.*", "*")
"""Where the file itself is the word's name."""
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")


class Word(NamedTuple):
    """A new word: how it is written, and its vectors [n d] by the encoder's folder (empty: any of that width)."""

    token: str
    vectors: Mapping[str, np.ndarray]

    @property
    def tokens(self) -> list[str]:
        """As many as there are vectors: <x>, <x>_1, <x>_2, as diffusers calls them."""
        count = len(next(iter(self.vectors.values())))
        return [self.token, *(f"{self.token}_{i}" for i in range(1, count))]


def read_word(path: str | Path, token: str | None = None) -> Word:
    """The word of an embedding file, diffusers' or A1111's, or of a folder with learned_embeds.

    token: how it is to be written; the file's own name for it (A1111: the file's name) where None.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    if not path.is_file():
        raise InputError(f"embedding: {path} is not a file")
    tensors = open_file(path)
    # The first files hold the number of the word's token as a tensor, too.
    names = [name for name in tensors.info if not name.startswith("string_to_token.")]
    if set(names) == set(ENCODERS):
        vectors = {ENCODERS[name]: _vectors(path, name, read(tensors, name)) for name in names}
        if len({len(array) for array in vectors.values()}) != 1:
            raise InputError(f"embedding: {path} has different numbers of vectors for its two encoders")
        own = getattr(tensors, "metadata", {}).get("token")
        word = Word(own if isinstance(own, str) else path.stem, vectors)
    elif len(names) == 1:
        own = path.stem if names[0] in UNNAMED else names[0].removeprefix("string_to_param.")
        word = Word(own, {"": _vectors(path, names[0], read(tensors, names[0]))})
    else:
        first = ", ".join(names[:3]) or "nothing"
        raise InputError(f"embedding: {path} must hold one word (or clip_l and clip_g); it holds {first}")
    token = word.token if token is None else token
    if not token.strip():
        raise InputError("embedding: its token must not be empty")
    return word._replace(token=token)


def write_word(path: Path, word: Word) -> None:
    """Writes a word as `read_word` and diffusers' load_textual_inversion read it.

    One encoder's vectors are called as the word is; both encoders' of SDXL clip_l and clip_g, the word beside them.
    """
    parts = {folder: name for name, folder in ENCODERS.items()}
    names = [word.token] if len(word.vectors) == 1 else [parts[folder] for folder in word.vectors]
    arrays = dict(zip(names, (np.asarray(array, np.float32) for array in word.vectors.values()), strict=True))
    tensors = {name: (Info(array.dtype, array.shape), lambda array=array: array) for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, tensors, {"format": "pt", "token": word.token})


def _vectors(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size or array.dtype not in FLOATS:
        raise InputError(f"embedding: {path}: {name} {array.dtype} {list(array.shape)} must be floats [d] or [n d]")
    if not np.isfinite(array.astype(np.float32)).all():
        raise InputError(f"embedding: {path}: {name} is not finite")
    return array.astype(np.float32)
