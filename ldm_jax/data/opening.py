"""The one function that opens any data set."""

from collections.abc import Callable

from ldm_jax.data.blank import open_blank
from ldm_jax.data.bundled import SETS, open_bundled
from ldm_jax.data.folder import open_folder
from ldm_jax.data.npz import open_npz
from ldm_jax.data.source import Source, hold_out
from ldm_jax.data.tfds import open_tfds
from ldm_jax.errors import InputError

SCHEMES: dict[str, tuple[str, Callable[[str, str], Source]]] = {
    "bundled": (", ".join(f"bundled:{name}" for name in SETS), open_bundled),
    "folder": ("folder:PATH", open_folder),
    "npz": ("npz:PATH", lambda path, split: hold_out(open_npz(path), split, f"npz:{path}")),
    "tfds": ("tfds:NAME", open_tfds),
    "blank": ("blank:N", open_blank),
}


def open_source(spec: str, split: str = "train") -> Source:
    """Open the data set that `spec` names.

    - `bundled:NAME`: a set that is shipped in the package; see `ldm_jax.data.bundled`.
    - `folder:PATH`: images in sub-folders by class, or all in one folder, with captions in metadata.jsonl, metadata.csv
      or a text file each.
    - `npz:PATH`: arrays `images`, optionally `labels`, `captions` and `class_names`; see `ldm_jax.data.npz`.
    - `tfds:NAME`: any TFDS image data set that was prepared as ArrayRecord; see `ldm_jax.data.tfds`.
    - `blank:N`: grey pictures of N classes, `blank:captions` with captions, for plans and timings without data.

    docs/data.md shows all layouts. `split` is "train", "test", or another split that the data set itself has, such as
    "validation". Where there is no test split, "test" is the validation split if there is one, else a held-out tenth
    that "train" then lacks.

    Raises:
      InputError: the scheme, what it names, or the split is unknown, or the data cannot be read.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or not rest or scheme not in SCHEMES:
        accepted = ", ".join(form for form, _ in SCHEMES.values())
        raise InputError(f"data.source: {spec!r} is not a data source; accepted: {accepted}")
    return SCHEMES[scheme][1](rest, split)
