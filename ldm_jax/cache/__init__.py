"""Named arrays of every example, made once and kept on disk: latents, and what the conditions make of the data.

Here belongs how such arrays are laid out, trusted, written by several processes and read in batches. What is computed
lies with the networks (models/) and the conditions; when it is computed, with the stages.
"""

from ldm_jax.cache.conditions import ConditionCache, cache_condition
from ldm_jax.cache.latents import Latents, encode_all, encode_moments, mean_and_logvar
from ldm_jax.cache.manifest import Unusable, weights_hash
from ldm_jax.cache.place import Place, place_of

__all__ = [
    "ConditionCache",
    "Latents",
    "Place",
    "Unusable",
    "cache_condition",
    "encode_all",
    "encode_moments",
    "mean_and_logvar",
    "place_of",
    "weights_hash",
]
