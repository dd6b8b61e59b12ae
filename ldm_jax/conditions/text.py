"""Texts, through an encoder that is trained with the denoiser or through a frozen one.

Trained is LDM's own way (arXiv 2112.10752, section 4.3.1): a small transformer, over a vocabulary fitted to the
captions. A frozen encoder, as published text-to-image models have, reads each distinct caption once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ldm_jax.conditions.base import Arrays, Asked, Params, Size
from ldm_jax.conditions.building import Given, check_dropout
from ldm_jax.conditions.encoders import Encoder, TextConditioner, distinct_texts
from ldm_jax.conditions.vocabulary import fit
from ldm_jax.data import Example
from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, T5Encoder, TextEncoder, TextEncoderConfig, apply
from ldm_jax.pretrained import hub
from ldm_jax.pretrained.parts import load_part, save_part
from ldm_jax.pretrained.tokenization import read_tokenizer, tokenizer_files
from ldm_jax.pretrained.writing import write_bytes


@dataclasses.dataclass(frozen=True)
class TrainedEncoder:
    """A transformer that is trained with the denoiser, over words of the captions."""

    width: int = 192
    """Features of a token."""
    depth: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    vocabulary: int = 4096
    """Most tokens: letters, and the captions' most frequent words."""

    def __post_init__(self) -> None:
        for field in ("width", "depth", "heads", "vocabulary"):
            if getattr(self, field) < 1:
                raise InputError(f"conditions.text.encoder.{field}: {getattr(self, field)} must be at least 1")
        if self.width % self.heads:
            raise InputError(f"conditions.text.encoder.width: {self.width} must be a multiple of heads ({self.heads})")

    def build(self, given: Given, length: int) -> Encoder:
        """The encoder, without parameters yet."""
        assert given.captions is not None
        tokenizer, files = fit(given.captions(), self.vocabulary, length)
        config = TextEncoderConfig(
            vocabulary=tokenizer.size,
            positions=length,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            hidden=4 * self.width,
            activation="gelu_tanh",
            causal=False,
            pooling="none",
            pad_id=tokenizer.pad_id,
        )
        return Encoder(TextEncoder(config), None, tokenizer, files)


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """A published encoder (CLIP, BERT, MiniLM, T5), used as it is."""

    path: str = ""
    """A folder with config.json, weights and tokenizer, a pipeline of diffusers, or package:NAME for such a folder
    within an installed Python package."""

    def __post_init__(self) -> None:
        if not self.path:
            raise InputError("conditions.text.encoder.path: it must name a folder, or package:NAME")

    def build(self, given: Given, length: int) -> Encoder:
        """The encoder with its parameters; texts are cut to `length` tokens, or to fewer where it takes fewer."""
        part = given.place("text_encoder", lambda: encoder_folders(self.path)[0])
        tokenizer = given.place("tokenizer", lambda: encoder_folders(self.path)[1])
        module, params = load_part(part)
        if not isinstance(module, TextEncoder | T5Encoder):
            raise InputError(f"conditions.text.encoder.path: {part} holds a {type(module).__name__}, no text encoder")
        return open_encoder(module, jax.tree.map(jnp.asarray, params), tokenizer, length)


@dataclasses.dataclass(frozen=True)
class Text:
    """The caption of the image; one without a caption counts as one whose caption was dropped."""

    label: ClassVar[str] = "text"

    encoder: TrainedEncoder | FrozenEncoder = TrainedEncoder()
    """What reads the captions."""
    length: int = 32
    """Most tokens of a text, start and end included; what is longer is cut, with a warning."""
    dropout: float = 0.1
    """Share of examples trained without their caption, for guidance."""

    def __post_init__(self) -> None:
        check_dropout(self.label, self.dropout)
        if self.length < 3:
            raise InputError(f"conditions.text.length: {self.length} must be at least 3")

    def build(self, given: Given) -> TextCondition:
        """The condition for these data; InputError where they have no captions."""
        if given.captions is None:
            raise InputError("conditions.text: the data have no captions; leave it out, or give them (docs/data.md)")
        conditioner = TextConditioner({"text_encoder": self.encoder.build(given, self.length)}, masked=True)
        kind = TrainedTextCondition if isinstance(self.encoder, TrainedEncoder) else TextCondition
        return kind(conditioner, dropout=self.dropout)


@dataclasses.dataclass(frozen=True)
class SavedText:
    """See `Saved`; text_encoder/ and tokenizer/ lie beside it."""

    trained: bool
    length: int
    dropout: float | None = None

    def open(self, folder: Path, part: Callable[[str], tuple[Any, Params]]) -> tuple[TextCondition, Params]:
        """See `Saved`."""
        module, params = part("text_encoder")
        if not isinstance(module, TextEncoder | T5Encoder):
            raise InputError(f"model: {folder} needs a TextEncoder or a T5Encoder in text_encoder/")
        encoders = {"text_encoder": open_encoder(module, params, folder / "tokenizer", self.length)}
        kind = TrainedTextCondition if self.trained else TextCondition
        return kind(TextConditioner(encoders, masked=True), dropout=self.dropout), params if self.trained else {}


@dataclasses.dataclass(frozen=True, eq=False)
class TextCondition:
    """See `Condition`; read gives token ids, embed the context [l d] and, where there is one, pooled [e]."""

    encoders: TextConditioner
    sizes: bool = False
    """The network is also told the image's size, as SDXL is."""
    scores: tuple[float, float] | None = None
    """In place of the size wanted, as SDXL's refiner has it: how pleasing the image is, and that of no prompt."""
    dropout: float | None = None
    pixels: tuple[int, ...] | None = None
    """The size of the images that it is trained with; None where it isn't trained."""
    name: str = "text"
    fields: ClassVar[tuple[str, ...]] = ("caption",)
    asks: ClassVar[tuple[str, ...]] = ("prompts", "negative")

    @property
    def channels(self) -> int:
        return 0

    def describe(self) -> Mapping[str, Any]:
        encoders = {name: type(e.module).__name__ for name, e in self.encoders.encoders.items()}
        sizes = list(self.pixels) if self.sizes and self.pixels else []
        more: dict[str, Any] = {"masked": True} if self.encoders.masked else {}
        more |= {"scores": list(self.scores)} if self.scores else {}
        return {"kind": self.name, "style": self.encoders.style, "encoders": encoders, "sizes": sizes, **more}

    def read(self, example: Example) -> Sequence[Arrays]:
        each = self.encoders.tokens(list(dict.fromkeys(example.captions)) or [""])
        count = len(next(iter(each.values())))
        return [{name: ids[i] for name, ids in each.items()} for i in range(count)]

    def embed(self, arrays: Arrays) -> dict[str, Any]:
        cond = self.encoders.encode(arrays)
        found = {name: np.asarray(leaf) for name, leaf in cond._asdict().items() if leaf is not None}
        return found if self.pixels is None else self.sized(found, self.pixels)

    def init(self, key: Array) -> Params:
        return {}

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        return Conditioning(**{name: jnp.asarray(leaf) for name, leaf in arrays.items()})

    def null(self, arrays: Arrays) -> Arrays:
        n = len(arrays["context"])
        nothing: dict[str, Any] = {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in self.encoders.nothing.items()}
        if self.scores is not None and "time_ids" in arrays:
            ids = jnp.asarray(arrays["time_ids"])
            nothing["time_ids"] = ids.at[:, -1].set(self.scores[1])
        return {name: nothing.get(name, leaf) for name, leaf in arrays.items()}

    def sized(self, arrays: dict[str, Any], pixels: tuple[int, ...], negative: bool = False) -> dict[str, Any]:
        """With SDXL's numbers, where the network is told: original size, crop's corner, and size wanted or score.

        arXiv 2307.01952, section 2.2.
        """
        if not self.sizes:
            return arrays
        h, w = pixels
        last = (h, w) if self.scores is None else (self.scores[1 if negative else 0],)
        ids = np.tile(np.array([[h, w, 0, 0, *last]], np.float32), (len(arrays["context"]), 1))
        return {**arrays, "time_ids": ids}

    def ask(self, size: Size, **given: Any) -> Asked:
        """prompts: a list of texts; negative: one text or as many, from which guidance leads away."""
        cond, prompts, negative = (given.get(name) for name in ("cond", "prompts", "negative"))
        if prompts is None and (cond is None or cond.context is None):
            raise InputError("prompt: this model draws from texts; give one (or cond with its embedding)")
        if prompts is not None:
            if isinstance(prompts, str) or not len(prompts) or not all(isinstance(text, str) for text in prompts):
                raise InputError("prompt: give a list of one text or more")
            refuse_blank("prompt", prompts)
            distinct, place = distinct_texts(prompts)
            arrays = self.embed(self.encoders.tokens(distinct))
            arrays = {name: leaf[place] for name, leaf in arrays.items()}
            arrays = self.sized(arrays, size.pixels)
        else:
            assert cond is not None
            arrays = {name: leaf for name, leaf in cond._asdict().items() if leaf is not None}
            arrays = arrays if "time_ids" in arrays else self.sized(arrays, size.pixels)
        null = None
        if negative is not None:
            texts = [negative] if isinstance(negative, str) else list(negative)
            refuse_blank("negative", texts)
            null = self.sized(self.embed(self.encoders.tokens(texts)), size.pixels, negative=True)
        return Asked(arrays, null)

    def save(self, params: Params, folder: Path) -> SavedText:
        """See `WithFiles`; the one encoder of a model of our own."""
        ((name, encoder),) = self.encoders.encoders.items()
        save_part(encoder.module, params or encoder.params, folder / name)
        (folder / "tokenizer").mkdir(exist_ok=True)
        for file, data in encoder.files.items():
            write_bytes(folder / "tokenizer" / file, data)
        return SavedText(bool(params), encoder.tokenizer.length, self.dropout)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedTextCondition(TextCondition):
    """With an encoder whose parameters are trained with the denoiser's; the arrays are its token ids [l]."""

    def embed(self, arrays: Arrays) -> dict[str, Any]:
        return dict(arrays)

    def init(self, key: Array) -> Params:
        ((_, encoder),) = self.encoders.encoders.items()
        return encoder.module.init(key, *encoder.module.example_inputs())["params"]

    def apply(self, params: Params, arrays: Arrays, keys: Array | None) -> Conditioning:
        if "context" in arrays:
            return super().apply(params, arrays, keys)
        ((name, encoder),) = self.encoders.encoders.items()
        ids = jnp.asarray(arrays[name])
        mask = self.encoders.mask(name, ids)
        return Conditioning(context=apply(encoder.module, params, ids, mask).tokens, context_mask=mask)

    def null(self, arrays: Arrays) -> Arrays:
        if "context" in arrays:
            raise InputError("null: guidance with an embedding of one's own needs that of an empty text")
        empty = self.encoders.tokens([""])
        return {name: np.broadcast_to(empty[name], np.shape(ids)) for name, ids in arrays.items()}


def refuse_blank(name: str, texts: Sequence[str]) -> None:
    """InputError where a text is spaces alone; "" is none at all, as diffusers has it."""
    blank = next((text for text in texts if text and not text.strip()), None)
    if blank is not None:
        raise InputError(f"{name}: {blank!r} is spaces alone; write '' for no text")
    if not texts:
        raise InputError(f"{name}: give one text or more")


def encoder_folders(path: str) -> tuple[Path, Path]:
    """The folders of a text encoder and of its tokenizer; InputError where `path` leads to none."""
    kind, _, name = path.partition(":")
    folder = hub.local(path).expanduser()
    if kind == "package":
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise InputError(f"conditions.text.encoder.path: the package {name!r} is not installed")
        folder = Path(spec.origin).parent
    below = sorted(place.parent for place in folder.glob("*/config.json")) if kind == "package" else []
    for place in (folder / "text_encoder", folder, *below):
        if not (place / "config.json").is_file():
            continue
        beside = place.with_name("tokenizer" + place.name.removeprefix("text_encoder"))
        return place, beside if place.name.startswith("text_encoder") and beside.is_dir() else place
    raise InputError(
        f"conditions.text.encoder.path: {path} has no config.json; accepted: the folder of a text encoder with its "
        "tokenizer, a pipeline of diffusers, package:NAME"
    )


def open_encoder(module: TextEncoder | T5Encoder, params: Any, tokenizer: Path, length: int) -> Encoder:
    """An encoder of texts of `length` tokens at most, with the tokenizer in that folder and its files."""
    files, positions = tokenizer_files(tokenizer), getattr(module.config, "positions", length)
    return Encoder(module, params, read_tokenizer(files, str(tokenizer)).cut(min(length, positions)), files)
