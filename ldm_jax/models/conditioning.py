"""What a denoiser may be told besides z and t."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


class Conditioning(NamedTuple):
    """Every part is optional; a network reads those that its config names and ignores none that it was built for."""

    label: Int[Array, "b"] | None = None
    """Class index; the network's num_classes stands for 'no class'."""
    context: Float[Array, "b l d"] | None = None
    """Tokens that cross-attention (or joint attention) sees."""
    context_mask: Bool[Array, "b l"] | None = None
    """True where a token counts."""
    pooled: Float[Array, "b d"] | None = None
    """One vector for the whole prompt."""
    time_ids: Float[Array, "b k"] | None = None
    """Sizes and crops (SDXL), or a noise level."""
    image: Float[Array, "b *space c"] | None = None
    """Concatenated to z along channels: masks and masked latents, or a low-resolution image."""
