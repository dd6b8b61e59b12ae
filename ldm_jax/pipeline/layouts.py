"""How the pipelines of diffusers are laid out, and where our own models have their parts."""

from __future__ import annotations

from typing import NamedTuple

from ldm_jax.conditions import Style
from ldm_jax.models import DiT, MMDiT, UNet


class Layout(NamedTuple):
    """A pipeline of diffusers: the names of its parts, and what it samples with where nobody says otherwise."""

    autoencoder: str
    denoiser: str
    encoders: tuple[tuple[str, str], ...] = ()
    """Text encoders and their tokenizers."""
    style: Style = "tokens"
    steps: int = 50
    guidance: float = 1.0
    scaled: bool = True
    """Latents are scaled by the VAE's scaling_factor; LDM's super-resolution takes them as they are."""


ONE = (("text_encoder", "tokenizer"),)
TWO = (*ONE, ("text_encoder_2", "tokenizer_2"))
THREE = (*TWO, ("text_encoder_3", "tokenizer_3"))
PIPELINES = {
    "StableDiffusionPipeline": Layout("vae", "unet", ONE, "tokens", 50, 7.5),
    "StableDiffusionXLPipeline": Layout("vae", "unet", TWO, "sdxl", 50, 5.0),
    "StableDiffusion3Pipeline": Layout("vae", "transformer", THREE, "sd3", 28, 7.0),
    "DiTPipeline": Layout("vae", "transformer", steps=50, guidance=4.0),
    "LDMPipeline": Layout("vqvae", "unet"),
    "LDMSuperResolutionPipeline": Layout("vqvae", "unet", steps=100, scaled=False),
    "LDMTextToImagePipeline": Layout("vqvae", "unet", (("bert", "tokenizer"),)),
}
DENOISER_FOLDERS: dict[type, str] = {DiT: "transformer", MMDiT: "transformer", UNet: "unet"}
"""Where our own models have their denoiser, named as diffusers names it."""
OLD_NAMES = {"LatentDiffusionUncondPipeline": "LDMPipeline", "LatentDiffusionPipeline": "LDMTextToImagePipeline"}
"""Names of the first diffusers releases, which some repositories still have."""
