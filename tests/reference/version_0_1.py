"""Makes tests/reference/version_0_1: a run's config, its model and latents that it drew. Run it with ldm_jax 0.1 alone.

python tests/reference/version_0_1.py RUN FOLDER
"""

import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
from ldm_jax.training.run import Run

import ldm_jax
from ldm_jax.config import load_config
from ldm_jax.smoke import shrink

run, folder = map(Path, sys.argv[1:])
few = {"steps": 2, "checkpoint_every": 2, "sample_every": 2}
config = shrink(load_config("configs/quickstart.py"))
config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, limit=32),
    autoencoder=dataclasses.replace(config.autoencoder, channels=4, groups=2),
    denoiser=dataclasses.replace(config.denoiser, width=8, depth=1),
    autoencoder_training=dataclasses.replace(config.autoencoder_training, **few),
    denoiser_training=dataclasses.replace(config.denoiser_training, **few),
    sampling=dataclasses.replace(config.sampling, steps=2, interval=(0.1, 0.9)),
)
Run(config, run).train()
latents = ldm_jax.load(run).sample(jax.random.key(0), labels=[1, 2], steps=3, guidance=2.0, output="latents")
folder.mkdir(parents=True)
shutil.copytree(run / "model", folder / "model")
shutil.copy(run / "config.json", folder / "config.json")
np.save(folder / "latents.npy", latents)
