"""The published formats: one file a family of networks, each a set of name tables and two config translations."""

from __future__ import annotations

import flax.linen as nn

from ldm_jax.pretrained.formats import Format
from ldm_jax.pretrained.tables.autoencoders import AUTOENCODER_KL, AUTOENCODER_TINY, VQ_MODEL
from ldm_jax.pretrained.tables.t5 import T5
from ldm_jax.pretrained.tables.text import BERT, CLIP_TEXT, CLIP_TEXT_PROJECTION, LDM_BERT
from ldm_jax.pretrained.tables.transformers import DIT_DIFFUSERS, SD3
from ldm_jax.pretrained.tables.unet import UNET_CONDITION, UNET_PLAIN

FORMATS: dict[str, Format] = {
    published.name: published
    for published in (
        AUTOENCODER_KL,
        VQ_MODEL,
        AUTOENCODER_TINY,
        UNET_CONDITION,
        UNET_PLAIN,
        DIT_DIFFUSERS,
        SD3,
        CLIP_TEXT,
        CLIP_TEXT_PROJECTION,
        BERT,
        LDM_BERT,
        T5,
    )
}


def format_of(module: nn.Module) -> Format | None:
    """The published format that has a network of exactly this architecture, or None."""
    for published in FORMATS.values():
        if type(module) is published.module and published.write(module.config) is not None:  # type: ignore[attr-defined]
            return published
    return None
