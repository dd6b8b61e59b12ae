"""Fashion-MNIST in one step at 32 px: the quickstart's networks, trained as average velocities.

    $ python train.py configs/mean_flow.py

MeanFlow (Geng et al. 2025, arXiv 2505.13447) with guidance built in. `--autoencoder-from runs/quickstart
--autoencoder-trains nothing` takes the quickstart's autoencoder. `--stages.denoiser.objective shortcut` trains
shortcuts instead. Afterwards `python sample.py runs/mean_flow --steps 1` draws with one evaluation an image; any
number of Euler steps goes, and any other sampler.
"""

import dataclasses
from pathlib import Path

from ldm_jax import Config
from ldm_jax.configfile import load_config
from ldm_jax.diffusion.time_choices import LogitNormal
from ldm_jax.stages.objectives import MeanFlow


def get_config() -> Config:
    quickstart = load_config(Path(__file__).with_name("quickstart.py"))
    config = dataclasses.replace(
        quickstart,
        process=dataclasses.replace(quickstart.process, times=LogitNormal(-0.4, 1.0)),
        sampling=dataclasses.replace(quickstart.sampling, steps=1, guidance=1.0),
    )
    return config.with_stages(
        denoiser={"steps": 3000, "objective": MeanFlow(guidance=2.0, mixing=0.5), "sample_every": 1500}
    )
