r"""DiT-XL/2 on ImageNet at 256 px, as in Peebles & Xie 2023 (arXiv 2212.09748), for a pod.

    $ python train.py configs/imagenet256_dit_xl.py --data.source folder:PATH --autoencoder-from VAE \
        --autoencoder-trains nothing

VAE: a folder of Stable Diffusion's autoencoder, which the paper takes; without it the same architecture is trained
first, as configs/ldm_autoencoder.py says. 675 M parameters, latents 32x32x4, batches of 256; the flow and the uniform
times of SiT (arXiv 2401.08740) in place of the paper's 1,000 noise levels. Not trained with this code; what it takes is
told by

    $ ldm-jax plan configs/imagenet256_dit_xl.py --data.source blank:1000 --stage denoiser --topology v5e:16x16
"""

import dataclasses
from pathlib import Path

from ldm_jax.config import Config
from ldm_jax.configfile import load_config
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.schedules import RectifiedFlow
from ldm_jax.models import DiTConfig
from ldm_jax.training.decays import NoDecay


def get_config() -> Config:
    first = load_config(f"{Path(__file__).with_name('ldm_autoencoder.py')}:kl-f8")
    config = dataclasses.replace(
        first,
        data=dataclasses.replace(first.data, source="folder:imagenet", batch_size=256),
        denoiser=DiTConfig(patch=2, width=1152, depth=28, heads=16),
        process=Process(RectifiedFlow(), "flow"),
        sampling=dataclasses.replace(first.sampling, steps=50, guidance=1.5),
    )
    return config.with_stages(
        denoiser={
            "steps": 400_000,
            "learning_rate": 1e-4,
            "warmup": 0,
            "decay": NoDecay(),
            "ema": 0.9999,
            "dtype": "bfloat16",
            "remat": True,
            "scan": True,
            "sample_every": 10_000,
            "checkpoint_every": 10_000,
        }
    )
