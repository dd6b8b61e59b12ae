"""What an experiment would take: by the compiler, for devices that are here and for TPUs that aren't."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from ldm_jax.cli import run
from ldm_jax.data import open_source
from ldm_jax.errors import InputError
from ldm_jax.experiment.planning import EXAMPLES, plan
from ldm_jax.stages import DenoiserTraining
from ldm_jax.training.chips import chip_of, collectives

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")


@pytest.fixture(scope="module")
def plans(tiny_config):
    """Of both stages, with the programs that all tests share; of the second by the other strategy, too."""
    more = plan(tiny_config, jax.devices(), ["fsdp"], "denoiser")
    return {(p.stage, p.strategy): p for p in (*plan(tiny_config, jax.devices(), ["pmap"]), *more)}


def test_of_both_stages_by_both_strategies(plans, tiny_config, trained):
    import ldm_jax

    assert list(plans) == [("autoencoder", "pmap"), ("denoiser", "pmap"), ("denoiser", "fsdp")]
    model = ldm_jax.load(trained)
    for stage, params in (("autoencoder", model.autoencoder_params), ("denoiser", model.denoiser_params)):
        pmap = plans[stage, "pmap"]
        count = sum(x.size for x in jax.tree.leaves(params))
        assert pmap.parameters == count and pmap.flops > 0
        # Gradients are averaged: each device sends its parameters nearly twice, and metrics with them.
        sent = pmap.costs.collectives["all-reduce"]
        assert 2 * 4 * count * 7 / 8 <= sent < 2 * 4 * count * 7 / 8 + 100
        # Parameters, their average and two moments.
        assert 16 * count <= pmap.costs.arguments < 16 * count + 2**20
        assert pmap.costs.memory == pmap.costs.arguments + pmap.costs.temporary
        # The host's processor is not in the table.
        assert pmap.times == {} and pmap.seconds is None
    fsdp = plans["denoiser", "fsdp"]
    assert fsdp.parameters == pmap.parameters and abs(fsdp.flops / pmap.flops - 1) < 0.01
    # Arrays this small are not split.
    assert fsdp.costs.arguments == pmap.costs.arguments
    assert tiny_config.stage(DenoiserTraining).steps == plans["denoiser", "pmap"].steps


def test_collectives_of_a_programs_text():
    text = """
      %psum.7 = f32[1024,1024]{1,0:T(8,128)S(1)} all-reduce(%fusion), channel_id=1
      %a = (bf16[8]{0}, f32[2,2]{1,0}) all-reduce(%x, %y), channel_id=2
      %g = (f32[16]{0}, f32[64]{0}) all-gather-start(%p), channel_id=3
      %d = f32[64]{0} all-gather-done(%g)
      %r = f32[16]{0} reduce-scatter(%q), channel_id=4
      %c = f32[4]{0} fusion(%all-reduce.1), kind=kLoop
    %fused_computation.1 (p: f32[16]) -> f32[64] {
      %begun = f32[64]{0} all-gather(%p), channel_id=3
    }
    %async_collective_fusion (p: f32[16]) -> f32[64] {
      %going = f32[64]{0} all-gather(%p), channel_id=3
    }
    %all-reduce-scatter.1 (p: f32[32]) -> f32[8] {
      %sum = f32[32]{0} all-reduce(%p), channel_id=5
    }
    """
    assert collectives(text, 4) == {
        "all-reduce": 2 * (4 * 2**20 + 16 + 16) * 0.75,
        "all-gather": 2 * 256 * 0.75,
        "reduce-scatter": (256 + 128) * 0.75,
    }


def test_chips():
    assert chip_of("TPU v5 lite")[1].memory == 16 * 2**30
    assert chip_of("TPU v5p")[1].memory == 95 * 2**30
    assert chip_of("NVIDIA H100 80GB HBM3")[0] == 989e12
    assert chip_of("cpu") is None


def test_blank_data():
    classes, captions = open_source("blank:1000"), open_source("blank:captions", "test")
    assert len(classes.class_names) == 1000 and classes[1001].label == 1 and classes[0].captions == ()
    assert captions.class_names == () and captions[3].captions == ("picture number 3",)
    assert len(classes) > EXAMPLES
    for what in ("x", "-1", "1.5"):
        with pytest.raises(InputError, match="must be blank:captions or blank:N"):
            open_source(f"blank:{what}")


def test_command(tiny_config, tmp_path, capsys):
    config, out = tmp_path / "config.json", tmp_path / "plan.json"
    config.write_text(tiny_config.to_json())
    args = [str(config), "--stage", "denoiser", "--strategy", "pmap", "--out", str(out)]
    assert run("plan", args) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("denoiser, pmap, batch 16 on 8 x cpu\n") and "memory of a device" in shown
    (found,) = json.loads(out.read_text())
    assert found["costs"]["memory"] > 0 and found["seconds"] == {}
    for more, message in (
        ([], "plan.json exists"),
        (["--overwrite", "--data.batch-size", "12"], "data.batch_size: 12 must be a multiple of 8 (8 devices"),
        (["--overwrite", "--largest-batch"], "largest_batch: the memory of cpu isn't known"),
        (["--overwrite", "--topology", "v9:2x2"], "topology: "),
        (["--overwrite", "--data.source", "blank:x"], "data.source: 'blank:x' must be"),
    ):
        assert run("plan", [*args, *more]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert json.loads(out.read_text()) == [found]


@TPU
@pytest.mark.slow
def test_for_tpus_that_are_not_here(tiny_config):
    from ldm_jax.cli.plan import devices_of

    devices = devices_of("v5e:2x2")
    config = dataclasses.replace(tiny_config, parallel="pmap")
    (found,) = plan(config, devices, ["pmap"], "denoiser")
    assert found.devices == 4 and found.kind == "TPU v5 lite"
    assert found.times.keys() == {"compute", "memory", "network"} and 0 < found.seconds < 1e-2
