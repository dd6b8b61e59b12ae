"""Examples in: sources, transforms, the loader.

Here belongs how examples are found, read, prepared and put in order, as numpy arrays on the host. What conditions make
of them is in conditions/, what is kept of them on disk in cache/, and JAX has no business here.
"""

from ldm_jax.data.loader import Batch, Loader
from ldm_jax.data.opening import open_source
from ldm_jax.data.order import choices, order
from ldm_jax.data.source import (
    Example,
    Objects,
    Renumbered,
    Source,
    Subset,
    annotation,
    evenly,
    has_captions,
    has_pairs,
    object_names,
    summary,
)
from ldm_jax.data.transforms import prepare, to_float, to_uint8
from ldm_jax.data.view import View

__all__ = [
    "Batch",
    "Example",
    "Loader",
    "Objects",
    "Renumbered",
    "Source",
    "Subset",
    "View",
    "annotation",
    "choices",
    "evenly",
    "has_captions",
    "has_pairs",
    "object_names",
    "open_source",
    "order",
    "prepare",
    "summary",
    "to_float",
    "to_uint8",
]
