"""A run that leaves snapshots of its averages, and its model with another of them."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.config import Pretrained
from ldm_jax.experiment import Run
from ldm_jax.experiment.averages import with_average
from ldm_jax.training.averages import Profiles, read_snapshots, rebuild


@pytest.fixture(scope="module")
def averaged(tiny_config, trained, tmp_path_factory):
    """Five steps of a scanned denoiser on the shared autoencoder, with snapshots."""
    config = dataclasses.replace(
        tiny_config, autoencoder=Pretrained(str(trained)), stages=tiny_config.stages[1:]
    ).with_stages(denoiser={"steps": 5, "sample_every": 5, "averages": Profiles(every=2), "scan": True})
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    Run(config, workdir).train()
    return workdir


def test_a_model_with_another_average(averaged, tmp_path, capsys):
    assert read_snapshots(averaged / "averages") == [(length, step) for step in (2, 4, 5) for length in (0.05, 0.1)]
    assert run("average", [str(averaged), "--length", "0.1", "--out", str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out == f"model: {tmp_path / 'model'}\n"
    plain, other = ldm_jax.load(averaged), ldm_jax.load(tmp_path / "model")
    assert jax.tree.structure(plain.denoiser_params) == jax.tree.structure(other.denoiser_params)
    # The last snapshot itself, but for rounding; and not what the run has saved.
    stacked = rebuild(averaged / "averages", 0.1)["denoiser"]["blocks"]
    first = jax.tree.map(lambda x: x[0], stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other.denoiser_params["block0"], first)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), plain.denoiser_params, other.denoiser_params)
    assert not all(jax.tree.leaves(same))
    early = with_average(plain, averaged, 0.1, step=2)
    assert not np.array_equal(early.denoiser_params["block0"]["mlp_in"]["kernel"], first["mlp_in"]["kernel"])


def test_wrong_input_is_one_line(averaged, trained, tmp_path, capsys):
    out = ["--out", str(tmp_path / "model")]
    for args, message in (
        ([str(trained), "--length", "0.1", *out], "run: .* has no snapshots"),
        ([str(averaged), "--length", "0.5", *out], "length: 0.5 must be more than 0 and at most 0.28"),
        ([str(averaged), "--length", "0.1", "--step", "3", *out], "step: .* has no snapshot of step 3; it has 2, 4, 5"),
        ([str(averaged), "--length", "0.1", "--out", str(averaged)], "out: .* must be another place"),
    ):
        assert run("average", args) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert re.search(message, err), err
    assert not (tmp_path / "model").exists()
    reference = ["--reference", "bundled:fashion_mnist", "--metrics", "fd_effnet", "--sweep", "ema=0.1"]
    assert run("evaluate", [str(trained), *reference]) == 2
    assert "sweep: " in capsys.readouterr().err
