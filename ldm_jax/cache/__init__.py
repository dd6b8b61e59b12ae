"""Named arrays of every example, made once and kept on disk: latents, and what the conditions make of the data.

Here belongs how such arrays are laid out, trusted, written by several processes and read in batches. What is computed
lies with the networks (models/) and the conditions; when it is computed, with the stages.
"""

from ldm_jax.cache.latents import Latents, encode_all, encode_moments, mean_and_logvar
from ldm_jax.cache.manifest import Unusable, weights_hash
from ldm_jax.cache.place import Place, place_of
from ldm_jax.cache.told import Told, tell_all

__all__ = [
    "Latents",
    "Place",
    "Told",
    "Unusable",
    "encode_all",
    "encode_moments",
    "mean_and_logvar",
    "place_of",
    "tell_all",
    "weights_hash",
]
