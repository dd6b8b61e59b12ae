r"""Text to image at 512 px with a UNet of Stable Diffusion 1's size, for a pod.

    $ python train.py configs/text_to_image_512.py --data.source folder:PATH --autoencoder-from VAE \
        --autoencoder-trains nothing

PATH: a folder with captions; VAE: a folder of Stable Diffusion's autoencoder, without which the same architecture is
trained first. 860 M parameters, latents 64x64x4, and a text encoder of CLIP-L's size that is trained along, as LDM's
was (Rombach et al. 2022, arXiv 2112.10752). Not trained with this code; what it takes is told by

    $ ldm-jax plan configs/text_to_image_512.py --data.source blank:captions --stage denoiser --topology v5e:16x16
"""

import dataclasses
from pathlib import Path

from ldm_jax.conditions.text import Text, TrainedEncoder
from ldm_jax.config import Config
from ldm_jax.configfile import load_config
from ldm_jax.models import UNetConfig


def get_config() -> Config:
    first = load_config(Path(__file__).with_name("imagenet256_dit_xl.py"))
    config = dataclasses.replace(
        first,
        data=dataclasses.replace(first.data, source="folder:captioned", image_size=512, batch_size=512),
        conditions=(Text(TrainedEncoder(width=768, depth=12, heads=12), length=77, dropout=0.1),),
        denoiser=UNetConfig(),
        sampling=dataclasses.replace(first.sampling, guidance=7.5),
    )
    return config.with_stages(denoiser={"scan": None})
