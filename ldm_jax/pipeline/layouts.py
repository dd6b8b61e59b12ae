"""How the pipelines of diffusers are laid out, and where our own models have their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from ldm_jax.conditions import Style
from ldm_jax.errors import InputError
from ldm_jax.models import DiT, MMDiT, UNet

Joined = Literal["image", "mask", "noised"] | None
"""An image of the latents' size; a mask and the latents of what it leaves; an image with noise of a known level."""


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
    joined: Joined = None
    """What the denoiser may have joined to z besides latents."""
    left_out: tuple[str, ...] = ()
    """Parts that diffusers knows and that we neither read nor write."""


ONE = (("text_encoder", "tokenizer"),)
TWO = (*ONE, ("text_encoder_2", "tokenizer_2"))
THREE = (*TWO, ("text_encoder_3", "tokenizer_3"))
SAFETY = ("safety_checker", "feature_extractor")
SD = Layout("vae", "unet", ONE, "tokens", 50, 7.5, left_out=SAFETY)
SDXL = Layout("vae", "unet", TWO, "sdxl", 50, 5.0)
SD3 = Layout("vae", "transformer", THREE, "sd3", 28, 7.0)
ADAPTER = ("image_encoder", "feature_extractor")
PIPELINES = {
    "StableDiffusionPipeline": SD,
    "StableDiffusionImg2ImgPipeline": SD,
    "StableDiffusionInpaintPipeline": SD._replace(joined="mask"),
    "StableDiffusionUpscalePipeline": SD._replace(
        steps=75, guidance=9.0, joined="noised", left_out=(*SAFETY, "watermarker")
    ),
    "LatentConsistencyModelPipeline": SD._replace(steps=4, guidance=8.5),
    "StableDiffusionXLPipeline": SDXL,
    "StableDiffusionXLImg2ImgPipeline": SDXL._replace(left_out=ADAPTER),
    "StableDiffusionXLInpaintPipeline": SDXL._replace(guidance=7.5, joined="mask", left_out=ADAPTER),
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3._replace(steps=50, left_out=ADAPTER),
    "StableDiffusion3InpaintPipeline": SD3._replace(steps=50, joined="mask", left_out=ADAPTER),
    "DiTPipeline": Layout("vae", "transformer", steps=50, guidance=4.0),
    "LDMPipeline": Layout("vqvae", "unet"),
    "LDMSuperResolutionPipeline": Layout("vqvae", "unet", steps=100, scaled=False, joined="image"),
    "LDMTextToImagePipeline": Layout("vqvae", "unet", (("bert", "tokenizer"),)),
}
LOW_RES = "low_res_scheduler"
"""Where upscalers have the schedule of the noise on their image."""
SCORED = "requires_aesthetics_score"
"""What the index of SDXL's refiner says."""
SCORES = (6.0, 2.5)
"""The scores that it is told, and that guidance leads away from (diffusers' defaults)."""
DENOISER_FOLDERS: dict[type, str] = {DiT: "transformer", MMDiT: "transformer", UNet: "unet"}
"""Where our own models have their denoiser, named as diffusers names it."""
OLD_NAMES = {"LatentDiffusionUncondPipeline": "LDMPipeline", "LatentDiffusionPipeline": "LDMTextToImagePipeline"}
"""Names of the first diffusers releases, which some repositories still have."""


def model_folder(path: Path) -> Path | None:
    """Where a model's index is: in a folder itself, or in a run's model/; None where there is none."""
    return next((place for place in (path, path / "model") if (place / "model_index.json").is_file()), None)


def layout_of(name: Any, path: Path) -> str:
    """The key of PIPELINES of an index's _class_name; InputError for a pipeline that isn't read."""
    known = OLD_NAMES.get(name, name) if isinstance(name, str) else None
    if known not in PIPELINES:
        accepted = ", ".join(["LatentDiffusion", *PIPELINES])
        raise InputError(f"model: _class_name {name!r} of {path} is not one of {accepted}")
    return known
