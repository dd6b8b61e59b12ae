"""Tiny Inpaint, Img2Img and Upscale pipelines of diffusers and the images that they draw.

Runs in an environment with PyTorch (CPU), diffusers and transformers; nothing here is imported by the library.

    python tests/reference/uses.py make [NAME ...]      writes tests/reference/uses.npz, or renews some of it
    python tests/reference/uses.py check NAME FOLDER    opens our folder with diffusers, which draws the same image

The parts are those of pipelines.py, with the denoiser's channels and the class changed; images, masks and noise follow
from names. Encoded images are the posterior's mean, not a sample of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import networks
import numpy as np
import pipelines

HERE = Path(__file__).parent


class Use(NamedTuple):
    """One reference."""

    base: str
    """The pipeline of pipelines.py that it has its parts from."""
    cls: str
    task: str
    strength: float = 1.0
    channels: int = 4
    """Channels of the denoiser's input."""
    latents: int = 4
    width: int = 16
    """Of the images, which are 16 high."""


USES = {
    "sd2_img2img": Use("sd2", "StableDiffusionImg2ImgPipeline", "edit", 0.6),
    "sdxl_img2img": Use("sdxl", "StableDiffusionXLImg2ImgPipeline", "edit", 0.4, width=24),
    "sdxl_refiner": Use("sdxl", "StableDiffusionXLImg2ImgPipeline", "edit", 0.6, width=24),
    "sd3_img2img": Use("sd3", "StableDiffusion3Img2ImgPipeline", "edit", 0.6, width=24),
    "sd15_inpaint": Use("sd15", "StableDiffusionInpaintPipeline", "inpaint", 1.0, 9),
    "sd2_inpaint": Use("sd2", "StableDiffusionInpaintPipeline", "inpaint", 0.6, 9),
    "sd15_replace": Use("sd15", "StableDiffusionInpaintPipeline", "inpaint"),
    "sd2_replace": Use("sd2", "StableDiffusionInpaintPipeline", "inpaint", 0.8),
    "sdxl_inpaint": Use("sdxl", "StableDiffusionXLInpaintPipeline", "inpaint", 1.0, 9, width=24),
    "sdxl_replace": Use("sdxl", "StableDiffusionXLInpaintPipeline", "inpaint", 0.6),
    "sd3_inpaint": Use("sd3", "StableDiffusion3InpaintPipeline", "inpaint", 1.0, 33, 16),
    "sd3_replace": Use("sd3", "StableDiffusion3InpaintPipeline", "inpaint", 0.6, 16, 16, width=24),
    "sd2_upscale": Use("sd2", "StableDiffusionUpscalePipeline", "upscale", channels=7),
}
LEVEL = 30
"""Of the noise on the upscaler's image."""


def images(use: Use) -> np.ndarray:
    """Two images, uint8 [2 h w 3]: smooth, with some noise."""
    h, w = (8, 8) if use.task == "upscale" else (16, use.width)
    y, x = np.mgrid[:h, :w] / 8.0
    waves = np.stack([np.sin(x + k) * np.cos(y - k) for k in range(6)], axis=-1).reshape(h, w, 2, 3)
    grain = networks.noise("grain", (2, h, w, 3))
    return np.clip(127.5 + 90 * waves.transpose(2, 0, 1, 3) + 12 * grain, 0, 255).astype(np.uint8)


def mask(use: Use) -> np.ndarray:
    """[h w] of 0 and 1; its edges are not those of latents."""
    found = np.zeros((16, use.width), np.float32)
    found[3:12, 5:] = 1.0
    found[13, 2] = 1.0
    return found


def noise(use: Use) -> np.ndarray:
    """That of the latents, [2 c h w]."""
    return pipelines.latents(use.latents, 8, use.width // 2)


def image_noise(use: Use) -> np.ndarray:
    """The upscaler's, [2 3 h w]."""
    return networks.noise("image noise", (2, 3, 8, 8))


def build(name: str):
    """The pipeline of a reference."""
    import diffusers

    use = USES[name]
    _, parts = pipelines.components(use.base)
    if name == "sdxl_refiner":
        parts |= refined(parts)
    denoiser = "transformer" if use.base == "sd3" else "unet"
    config = {key: value for key, value in parts[denoiser].config.items() if not key.startswith("_")}
    if use.channels != config["in_channels"]:
        changes: dict[str, Any] = {"in_channels": use.channels, "out_channels": use.latents}
        if use.task == "upscale":
            # As the published upscaler has it, at its levels with attention.
            changes |= {"num_class_embeds": 50, "only_cross_attention": [True, False]}
        parts[denoiser] = pipelines.filled(type(parts[denoiser]).from_config({**config, **changes}))
    if use.latents != parts["vae"].config.latent_channels:
        settings = {key: value for key, value in parts["vae"].config.items() if not key.startswith("_")}
        vae = type(parts["vae"]).from_config({**settings, "latent_channels": use.latents})
        parts["vae"] = pipelines.filled(vae)
    if use.task == "upscale":
        parts["low_res_scheduler"] = diffusers.DDPMScheduler(beta_schedule="scaled_linear", num_train_timesteps=50)
        parts["vae"].register_to_config(scaling_factor=0.08333)
        parts.pop("requires_safety_checker")
    pipeline = getattr(diffusers, use.cls)(**parts, **({"max_noise_level": 40} if use.task == "upscale" else {}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refined(parts: dict[str, Any]) -> dict[str, Any]:
    """What SDXL's refiner has in place of SDXL's: the second encoder alone, and five numbers beside its vector."""
    encoder = parts["text_encoder_2"]
    settings = encoder.config.to_dict() | {"projection_dim": 16}
    encoder = pipelines.filled(type(encoder)(type(encoder.config)(**settings)))
    config = {key: value for key, value in parts["unet"].config.items() if not key.startswith("_")}
    changes = {"cross_attention_dim": 16, "projection_class_embeddings_input_dim": 16 + 5 * 8}
    return {
        "unet": pipelines.filled(type(parts["unet"]).from_config({**config, **changes})),
        "text_encoder": None,
        "tokenizer": None,
        "text_encoder_2": encoder,
        "requires_aesthetics_score": True,
        "force_zeros_for_empty_prompt": False,
    }


def draw(name: str, pipeline) -> np.ndarray:
    """Two images [2 h w 3] in [0, 1]."""
    import torch

    use = USES[name]
    module = sys.modules[type(pipeline).__module__]

    def tensor(array: np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    def given(shape, **settings):
        found = {value.shape: value for value in (noise(use), image_noise(use))}
        return tensor(found[tuple(shape)])

    def mean(encoded, generator=None, sample_mode="sample"):
        return encoded.latent_dist.mode()

    told: dict[str, Any] = {"num_inference_steps": pipelines.STEPS, "output_type": "np", "guidance_scale": 4.0}
    told["image"] = tensor(np.moveaxis(images(use), -1, 1) / np.float32(255))
    if use.task != "upscale":
        told["strength"] = use.strength
    else:
        told["noise_level"] = LEVEL
    if use.task == "inpaint":
        told |= {"mask_image": tensor(np.broadcast_to(mask(use), (2, 1, 16, use.width)))}
    if use.task == "inpaint" or use.base == "sd3":
        told |= {"height": 16, "width": use.width}
    if use.base in ("sd2", "sd3"):
        told["negative_prompt"] = [pipelines.NEGATIVE] * 2
    with (
        mock.patch.object(module, "randn_tensor", given),
        mock.patch.object(module, "retrieve_latents", mean, create=True),
    ):
        if use.cls == "StableDiffusion3InpaintPipeline":
            # It forgets the shift when it decodes; decoded as the other pipelines of SD3 do.
            config = pipeline.vae.config
            latents = pipeline(pipelines.PROMPTS, **{**told, "output_type": "latent"}).images
            with torch.no_grad():
                image = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
            return pipeline.image_processor.postprocess(image, output_type="np")
        return pipeline(pipelines.PROMPTS, **told).images


def make() -> None:
    names, path = sys.argv[2:], HERE / "uses.npz"
    data = dict(np.load(path)) if names else {}
    for name in names or USES:
        pipeline = build(name)
        with tempfile.TemporaryDirectory() as folder:
            pipeline.save_pretrained(folder)
            record, held = pipelines.described(Path(folder))
        image = draw(name, pipeline)
        data |= {f"{name}/{key}": value for key, value in held.items()}
        data[f"{name}/json"], data[f"{name}/image"] = np.array(json.dumps(record)), image.astype(np.float32)
        inside = ((image > 0) & (image < 1)).mean()
        print(name, image.shape, f"{inside:.0%} of the values inside (0, 1), std {image.std():.3f}")
    np.savez_compressed(path, **data)
    print(path.stat().st_size, "bytes")


def check() -> None:
    """Our folder, opened by diffusers under its own class, draws what its own pipeline draws."""
    from diffusers import DiffusionPipeline

    name, folder = sys.argv[2:]
    without = {"text_encoder_3": None, "tokenizer_3": None} if USES[name].base == "sd3" else {}
    ours = DiffusionPipeline.from_pretrained(folder, **without)
    ours.set_progress_bar_config(disable=True)
    assert type(ours).__name__ == USES[name].cls
    assert np.array_equal(draw(name, build(name)), draw(name, ours))
    print(f"{name}: the same image")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]]()
