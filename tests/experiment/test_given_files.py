"""An autoencoder from a single file: read, kept in the run's folder, and read from there afterwards."""

import dataclasses

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from ldm_jax.config import Pretrained
from ldm_jax.errors import InputError
from ldm_jax.experiment.parts import read_base
from ldm_jax.experiment.workdir import keep_given
from ldm_jax.models import Autoencoder, AutoencoderConfig
from ldm_jax.pretrained.names import Numbers, flat_shapes, sources
from ldm_jax.pretrained.parts import published_tensors
from ldm_jax.pretrained.tables import compvis


def test_a_vae_in_one_file(tiny_config, tmp_path):
    """Under CompVis' names, as vae-ft-mse and sdxl_vae are."""
    module = Autoencoder(AutoencoderConfig(latent_channels=4, channels=32, multipliers=(1, 2), blocks=1, groups=32))
    random = np.random.default_rng(0)
    params = unflatten_dict(
        {
            tuple(path.split("/")): random.standard_normal(shape).astype(np.float32)
            for path, shape in flat_shapes(module).items()
        }
    )
    made = published_tensors(params, sources(module, compvis.FIRST_STAGE, Numbers(levels=2)))
    file = tmp_path / "vae-ft-mse.safetensors"
    save_file({name: np.ascontiguousarray(make()) for name, (_, make) in made.items()}, file)
    config = dataclasses.replace(tiny_config, autoencoder=Pretrained(str(file)))
    base = read_base(config, tmp_path / "run")
    assert base.autoencoder == module
    (tmp_path / "run" / "given").mkdir(parents=True)
    keep_given(base.places["autoencoder"], tmp_path / "run", "autoencoder")
    file.unlink()
    again = read_base(config, tmp_path / "run")
    for key, value in flatten_dict(params).items():
        np.testing.assert_array_equal(flatten_dict(again.autoencoder_params)[key], value)
    save_file({"input_blocks.0.0.weight": np.ones(1, np.float32)}, tmp_path / "unet.safetensors")
    with pytest.raises(InputError):
        read_base(dataclasses.replace(config, autoencoder=Pretrained(str(tmp_path / "unet.safetensors"))), tmp_path)
