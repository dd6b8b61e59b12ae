"""Whole runs in this process, on 8 devices."""

import dataclasses
import gc
import json
import logging
import re
import shutil
import sys

import chex
import jax
import numpy as np
import pytest

from ldm_jax.config import Pretrained
from ldm_jax.data import order
from ldm_jax.errors import Diverged, InputError
from ldm_jax.experiment import Run
from ldm_jax.experiment.workdir import flat, seams
from ldm_jax.models import VQConfig
from ldm_jax.pipeline import load
from ldm_jax.pretrained.parts import load_part
from ldm_jax.stages import AutoencoderLoss, AutoencoderTraining, DenoiserTraining
from ldm_jax.training.decays import NoDecay


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level(logging.INFO, "ldm_jax")


def weights(workdir):
    return {p.parent.name: p.read_bytes() for p in sorted((workdir / "model").rglob("*.safetensors"))}


def test_what_a_run_leaves_behind(trained, tiny_config):
    lines = [json.loads(x) for x in (trained / "metrics.jsonl").read_text().splitlines()]
    for stage in ("autoencoder", "denoiser"):
        mine = [x for x in lines if x["stage"] == stage]
        assert [x["step"] for x in mine] == list(range(1, 9))
        assert all(np.isfinite(x["loss"]) for x in mine)
        assert (trained / "samples" / f"{stage}-0000008.png").is_file()
        assert any((trained / stage).glob("[0-9]*"))
        assert any((trained / "tensorboard" / stage).iterdir())
    looked = {x["stage"]: x for x in lines if any(name.startswith("test_") for name in x)}
    assert looked["autoencoder"]["test_psnr"] > 3.0
    # Eight steps from the zero function, whose flow loss on normalised latents is 2.
    assert abs(looked["denoiser"]["test_loss"] - 2.0) < 0.5
    assert json.loads((trained / "config.json").read_text())["denoiser"]["num_classes"] == 10
    index = json.loads((trained / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "LatentDiffusion"
    assert len(json.loads((trained / "model" / "vae" / "config.json").read_text())["latents_mean"]) == 4


def test_a_damaged_checkpoint_costs_nothing_but_time(trained, tiny_config, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    copy = shutil.copytree(trained, tmp_path / "copy")
    before = weights(copy)
    shutil.rmtree(copy / "model")
    for path in (copy / "denoiser" / "8" / "state" / "ocdbt.process_0" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Run(tiny_config, copy).train()
    gc.collect()
    assert "is damaged" in caplog.text
    assert "denoiser: resuming at step 6 of 8" in caplog.text
    assert weights(copy) == before
    steps = [json.loads(x)["step"] for x in (copy / "metrics.jsonl").read_text().splitlines() if "denoiser" in x]
    assert steps == list(range(1, 9))


@pytest.mark.slow
def test_what_a_kill_kept_from_being_looked_at_is_looked_at(trained, tiny_config, tmp_path):
    """After the last step and in the middle: the picture and the numbers of a checkpoint's step are made up for."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    expected = records(copy)
    for step, sample_every in ((8, 8), (6, 6)):
        config = tiny_config.with_stages(denoiser={"sample_every": sample_every})
        if step == 6:
            shutil.rmtree(copy / "denoiser" / "8")
        lines = [x for x in records(copy) if x["stage"] != "denoiser" or x["step"] <= step]
        lines[-1].pop("test_loss", None)
        (copy / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        picture = copy / "samples" / f"denoiser-000000{step}.png"
        picture.unlink(missing_ok=True)
        Run(config, copy).train()
        found = {x["step"]: x for x in records(copy) if x["stage"] == "denoiser"}
        assert list(found) == list(range(1, 9))
        assert picture.is_file() and np.isfinite(found[step]["test_loss"])
        assert found[step].keys() == expected[-1].keys()
        assert found[8]["loss"] == expected[-1]["loss"] and found[8]["test_loss"] == expected[-1]["test_loss"]
    assert weights(copy) == weights(trained)


def test_stages_apart_give_the_same_model(trained, tiny_config, tmp_path):
    workdir = tmp_path / "apart"
    Run(tiny_config, workdir).train("autoencoder")
    assert not (workdir / "model" / "transformer").exists()
    assert weights(workdir)["vae"] == weights(trained)["vae"]
    Run(tiny_config, workdir).train("denoiser")
    assert weights(workdir) == weights(trained)


@pytest.mark.slow
def test_fsdp_learns_what_pmap_learns(trained, tiny_config, tmp_path):
    workdir = tmp_path / "fsdp"
    Run(dataclasses.replace(tiny_config, parallel="fsdp"), workdir).train()
    for a, b in zip(losses(trained), losses(workdir), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def losses(workdir):
    return [json.loads(x)["loss"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_flips_accumulation_and_images_without_labels(tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", images=rng.integers(0, 255, (40, 20, 24, 3), dtype=np.uint8))
    config = dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, source=f"npz:{tmp_path / 'noise.npz'}", flip=True),
        autoencoder=dataclasses.replace(tiny_config.autoencoder, image_channels=3, sigmoid_output=True),
        sampling=dataclasses.replace(tiny_config.sampling, guidance=3.0),
    )
    loss = dataclasses.replace(config.stage(AutoencoderTraining).loss, reconstruction="bce")
    config = config.with_stages(autoencoder={"steps": 2, "accumulate": 2, "loss": loss}, denoiser={"steps": 2})
    run = Run(config, tmp_path / "run")
    run.train()
    moments = np.load(tmp_path / "run" / "latents" / "moments.npy")
    assert moments.shape == (36, 2, 8, 8, 8)
    assert not np.allclose(moments[:, 0], moments[:, 1])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["denoiser"]["num_classes"] == 0


def test_a_changed_autoencoder_means_new_latents(trained, tiny_config, tmp_path, caplog):
    """And a denoiser that was trained on the old ones is never saved beside it: it is refused or trained anew."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    longer = tiny_config.with_stages(autoencoder={"steps": 9})
    before = weights(copy)
    for stage in ("autoencoder", "all"):
        with pytest.raises(
            InputError, match=r"stages.autoencoder.steps: 9 would change the latents that .* trained on"
        ):
            Run(longer, copy).train(stage)
    assert weights(copy) == before
    shutil.rmtree(copy / "denoiser")
    Run(longer, copy).train("autoencoder")
    assert "encoding 64 images into latents" in caplog.text
    caplog.clear()
    Run(longer, copy).train("autoencoder")
    assert "encoding" not in caplog.text


def test_a_denoiser_of_other_latents_is_refused(trained, tiny_config, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    other = tmp_path / "other"
    Run(dataclasses.replace(tiny_config, seed=1), other).train("autoencoder")
    shutil.rmtree(copy / "autoencoder")
    shutil.copytree(other / "autoencoder", copy / "autoencoder")
    with pytest.raises(InputError, match="trained with another autoencoder than there is now"):
        Run(tiny_config, copy).train()
    assert (copy / "denoiser" / "8").is_dir()


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_diverged_run_saves_nothing_broken(tiny_config, tmp_path):
    """Saved between log lines, watched by none: the update of a step breaks it, the next one notices."""
    broken = {"learning_rate": 1e30, "clip": 0.0, "warmup": 0, "log_every": 24, "sample_every": 24, "patience": 3}
    config = tiny_config.with_stages(autoencoder={**broken, "steps": 24, "checkpoint_every": 1})
    with pytest.raises(Diverged, match="not finite from step 2 on; there is no checkpoint yet; a lower learning_rate"):
        Run(config, tmp_path).train("autoencoder")
    assert not any((tmp_path / "autoencoder").glob("[0-9]*"))
    # What the message advises is allowed, and the run begins again.
    Run(config.with_stages(autoencoder={"learning_rate": 1e-3, "clip": 1.0, "steps": 2}), tmp_path).train("autoencoder")
    assert all(np.isfinite(line["loss"]) for line in records(tmp_path))


def test_good_checkpoints_outlive_a_divergence(tiny_config, tmp_path):
    good = tiny_config.with_stages(autoencoder={"steps": 4, "checkpoint_every": 2})
    Run(good, tmp_path).train("autoencoder")
    broken = {"steps": 24, "learning_rate": 1e30, "clip": 0.0, "checkpoint_every": 1, "log_every": 24, "patience": 2}
    with pytest.raises(Diverged, match="the checkpoint of step 4 is kept"):
        Run(good.with_stages(autoencoder=broken), tmp_path).train("autoencoder")
    assert sorted(path.name for path in (tmp_path / "autoencoder").glob("[0-9]*"))[-1] == "4"
    lines = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines][:4] == [1, 2, 3, 4]


@pytest.mark.slow
def test_it_goes_back_at_a_lower_rate_where_the_config_says_so(tiny_config, tmp_path, caplog):
    """From step 4, twice, and stops the third time; the examples of skipped steps are named."""
    good = tiny_config.with_stages(autoencoder={"steps": 4, "checkpoint_every": 2})
    Run(good, tmp_path).train("autoencoder")
    broken = {"steps": 24, "learning_rate": 1e30, "clip": 0.0, "checkpoint_every": 8, "log_every": 4, "patience": 2}
    config = good.with_stages(autoencoder=broken | {"retreats": 2})
    with pytest.raises(Diverged, match="the checkpoint of step 4 is kept"):
        Run(config, tmp_path).train("autoencoder")
    assert json.loads((tmp_path / "retreats.json").read_text()) == {"autoencoder": 2}
    assert [rate in caplog.text for rate in ("rate of 5e+29", "rate of 2.5e+29", "rate of 1.25e+29")] == [1, 1, 0]
    named = re.search(r"step 6 is skipped, its loss or gradient is not finite; examples (.*)", caplog.text)
    assert [int(word) for word in named[1].split(", ")] == order(64, 16, 0, 5)[0].tolist()
    # What the config allows decides, and the count outlives the process.
    fine = {"learning_rate": 4e-3, "clip": 1.0, "steps": 6, "log_every": 1, "retreats": 2}
    Run(config.with_stages(autoencoder=fine), tmp_path).train("autoencoder")
    assert max(line["learning_rate"] for line in records(tmp_path) if line["step"] > 4) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("steps", [8, 20])
def test_same_losses_on_one_and_on_eight_devices(steps, trained, tiny_config, tmp_path, monkeypatch):
    """Both stages, to 1e-4 relative; what differs is the number of devices alone."""
    from ldm_jax.training import loop as module

    longer = {"steps": steps, "sample_every": steps, "checkpoint_every": steps}
    config = tiny_config.with_stages(autoencoder=longer, denoiser=longer)
    # Of 8 steps on 8 devices there is the run that all tests share.
    counts, found = ((1,), {8: losses(trained)}) if steps == 8 else ((1, 8), {})
    original, used = module._strategy, []

    def chosen(name, loss, optimizer, ema, gammas, accumulate, devices):
        used.append(devices)
        return original(name, loss, optimizer, ema, gammas, accumulate, devices)

    for count in counts:
        few = tuple(jax.devices()[:count])
        monkeypatch.setattr(module, "_strategy", lambda *settings, few=few: chosen(*settings[:-1], few))
        Run(config, tmp_path / str(count)).train()
        found[count] = losses(tmp_path / str(count))
    assert [len(devices) for devices in used] == [count for count in counts for _ in ("autoencoder", "denoiser")]
    assert len(found[1]) == 2 * steps
    np.testing.assert_allclose(found[1], found[8], rtol=1e-4)


def test_bad_input_before_anything_is_written(tiny_config, tmp_path):
    few = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, batch_size=12))
    with pytest.raises(InputError, match="must be a multiple of 8"):
        Run(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_flat_names_are_dotted():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


@pytest.mark.slow
def test_first_stages_start_from_others(tiny_config, tmp_path):
    """VQ with an adversarial loss; its decoder trained on; a denoiser on latents that nobody trains any more."""
    few = {"steps": 2, "sample_every": 2, "checkpoint_every": 2}
    vq = VQConfig(image_channels=1, latent_channels=2, channels=8, multipliers=(1,), blocks=1, stem=4, groups=4)
    adversarial = AutoencoderLoss(perceptual_weight=0.1, perceptual="alexnet", adversarial_weight=0.1, lecam_weight=0.1)
    config = dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, limit=16, batch_size=8),
        autoencoder=dataclasses.replace(vq, codebook_size=16),
    ).with_stages(autoencoder={**few, "loss": adversarial}, denoiser=few)
    Run(config, tmp_path / "first").train("autoencoder")
    lines = [json.loads(x) for x in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    assert {"lpips", "adversarial", "discriminator", "logits_real", "logits_fake", "codes_used"} < lines[0].keys()
    assert {"test_codes_used", "test_perplexity"} < lines[-1].keys()

    start = dataclasses.replace(config, autoencoder=Pretrained(str(tmp_path / "first")))
    decoder = start.with_stages(autoencoder={"trains": "decoder", "loss": AutoencoderLoss()})
    Run(decoder, tmp_path / "second").train("autoencoder")
    first, second = (load_part(tmp_path / name / "model" / "vae")[1] for name in ("first", "second"))
    chex.assert_trees_all_equal(first["encoder"], second["encoder"])
    chex.assert_trees_all_equal(first["codebook"], second["codebook"])
    assert not np.array_equal(first["decoder"]["conv_out"]["kernel"], second["decoder"]["conv_out"]["kernel"])

    fixed = dataclasses.replace(start, stages=(start.stage(DenoiserTraining),))
    Run(fixed, tmp_path / "third").train("denoiser")
    chex.assert_trees_all_equal(first, load_part(tmp_path / "third" / "model" / "vae")[1])
    model = load(tmp_path / "third")
    assert model.sample(jax.random.key(0), num=2, steps=2).shape == (2, *[config.data.image_size] * 2, 1)


def test_first_stages_that_cannot_be_started_from(trained, tiny_config, tmp_path):
    for place, message in ((tmp_path, "holds no autoencoder"), (trained / "model" / "transformer", "holds a DiT")):
        config = dataclasses.replace(tiny_config, autoencoder=Pretrained(str(place)))
        with pytest.raises(InputError, match=message):
            Run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_seam_in_the_learning_rate_is_told(tiny_config, tmp_path, capsys):
    """A cosine that is laid over more steps jumps up where the run goes on; a constant rate does not."""
    begun = tiny_config.with_stages(autoencoder={"steps": 4, "warmup": 1})
    longer = begun.with_stages(autoencoder={"steps": 8})
    (line,) = seams(begun, longer, {"autoencoder": 4, "denoiser": None}.get)
    rate = longer.stage(AutoencoderTraining).rate
    assert line.startswith("stages.autoencoder.steps: 8 for 4") and f"goes from 0 to {float(rate(4)):.3g}" in line
    assert seams(begun, longer, {}.get) == []
    assert seams(None, longer, {"autoencoder": 4}.get) == []
    assert seams(begun, begun.with_stages(autoencoder={"learning_rate": 1.0}), {"autoencoder": 2}.get) == []
    flat = [config.with_stages(autoencoder={"decay": NoDecay()}) for config in (begun, longer)]
    assert seams(*flat, {"autoencoder": 4}.get) == []
    Run(begun, tmp_path)
    (tmp_path / "autoencoder" / "4").mkdir(parents=True)
    Run(longer, tmp_path)
    assert f"note: {line}" in capsys.readouterr().err
