"""`bundled:NAME`: the sets that ship in the package, a module each with `open_split(split) -> Source`.

- `fashion_mnist`: grey pictures of clothes, 28 px, 10 classes; 10,000 to train with and 2,000 to test with.
- `emoji`: Microsoft's Fluent 3D emoji on white, 64 px, with captions and 9 classes; a tenth of the concepts
  is for tests.
- `shapes`: one or two coloured shapes on white, 64 px, with captions; the pairs of colour and shape of the test split
  are none of training's.
"""

from collections.abc import Callable

from ldm_jax.data.bundled import emoji, fashion_mnist, shapes
from ldm_jax.data.source import Source, check_split
from ldm_jax.errors import InputError

SETS: dict[str, Callable[[str], Source]] = {
    "emoji": emoji.open_split,
    "fashion_mnist": fashion_mnist.open_split,
    "shapes": shapes.Shapes,
}


def open_bundled(name: str, split: str) -> Source:
    """A set that ships in the package; its splits are "train" and "test"."""
    if name not in SETS:
        accepted = ", ".join(f"bundled:{known}" for known in SETS)
        raise InputError(f"data.source: 'bundled:{name}' is not bundled; accepted: {accepted}")
    check_split(split, ("train", "test"), f"bundled:{name}")
    return SETS[name](split)
