"""Published pipelines trained on: what is not trained stays bit for bit, the result is of the same kind."""

import json
import os
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import ldm_jax
from ldm_jax.cli import run
from tests.conftest import ROOT
from tests.pipeline import pipelines

QUICKSTART = str(ROOT / "configs" / "quickstart.py")
KINDS = ("sd15", "sdxl", "sd3")
STEPS = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixteen pictures of two colours, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for i in range(16):
        name = ("red", "blue")[i % 2]
        colour = (230, 20, 20) if i % 2 == 0 else (20, 20, 230)
        Image.new("RGB", (16, 16), colour).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a {name} square"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    room = tmp_path_factory.mktemp("published")
    return {name: pipelines.write(name, room / name) for name in KINDS}


def train(source, pictures, workdir, *more, steps=STEPS):
    words = {
        "denoiser-from": source,
        "data.source": f"folder:{pictures}",
        "data.image-size": 16,
        "data.batch-size": 16,
        "stages.denoiser.steps": steps,
        "stages.denoiser.learning-rate": 3e-3,
        "stages.denoiser.warmup": 0,
        "stages.denoiser.ema": 0,
        "stages.denoiser.log-every": 1,
        "stages.denoiser.sample-every": steps,
        "stages.denoiser.checkpoint-every": 8,
        "stages.denoiser.decay": "no_decay",
        "sampling.guidance": 1,
        "workdir": workdir,
    }
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    return run("train", [QUICKSTART, *options, *map(str, more)])


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().split("\n") if line]


def tensors(folder):
    """Every file's; transformers 5 saves CLIP without the prefix that published files have, and reads both."""
    return {
        str(path.relative_to(folder)): {
            name.removeprefix("text_model."): value for name, value in load_file(path).items()
        }
        for path in sorted(folder.rglob("*.safetensors"))
    }


# Each of the slow ones compiles a published network for half a minute or longer; models of ours are trained on in
# tests/test_cli_finetune.py.


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_denoiser(kind, folders, pictures, tmp_path, capsys):
    assert train(folders[kind], pictures, tmp_path) == 0, capsys.readouterr().err
    found = losses(tmp_path)
    assert len(found) == STEPS
    assert np.mean(found[-5:]) < 0.9 * np.mean(found[:5])
    before, after = tensors(folders[kind]), tensors(tmp_path / "model")
    assert before.keys() == after.keys()
    for file, values in before.items():
        moved = [name for name, value in values.items() if not np.array_equal(value, after[file][name])]
        assert bool(moved) == file.startswith(("unet", "transformer")), file
    model = ldm_jax.load(tmp_path)
    assert model.published == ldm_jax.load(folders[kind]).published
    assert model.scheduler == ldm_jax.load(folders[kind]).scheduler


@pytest.mark.slow
def test_attention_alone(folders, pictures, tmp_path, capsys):
    assert train(folders["sd15"], pictures, tmp_path, "--stages.denoiser.trains", "attention", steps=4) == 0
    before, after = (
        tensors(folder)["unet/diffusion_pytorch_model.safetensors"] for folder in (folders["sd15"], tmp_path / "model")
    )
    moved = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert moved and all("attn" in name or "attentions" in name for name in moved)
    assert any("attn2.to_k" in name for name in moved)
    assert "conv_in.weight" not in moved


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_adapters(kind, folders, pictures, tmp_path, capsys):
    """A LoRA file, not a pipeline; the base is read, never written."""
    before = {path: path.read_bytes() for path in folders[kind].rglob("*") if path.is_file()}
    rate = ("--stages.denoiser.learning-rate", "1e-2")
    assert train(folders[kind], pictures, tmp_path, "--adapter.rank", "4", *rate, steps=30) == 0, (
        capsys.readouterr().err
    )
    found = losses(tmp_path)
    assert np.mean(found[-5:]) < 0.97 * np.mean(found[:5])
    assert {path: path.read_bytes() for path in folders[kind].rglob("*") if path.is_file()} == before
    assert not (tmp_path / "model").exists()
    (file,) = (tmp_path / "adapter").glob("*.safetensors")
    part = "transformer." if kind == "sd3" else "unet."
    assert all(name.startswith(part) and ".lora_" in name for name in load_file(file))
    assert f"adapter: {tmp_path / 'adapter'}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_resumes_and_needs_its_source_no_more(folders, pictures, tmp_path, capsys):
    source = shutil.copytree(folders["sd15"], tmp_path / "source")
    assert train(source, pictures, tmp_path / "whole", steps=6) == 0
    # As a kill right after the checkpoint of step 3 leaves it, and the source moved away meanwhile.
    assert train(source, pictures, tmp_path / "cut", "--stages.denoiser.checkpoint-every", "3", steps=3) == 0
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(source)
    assert train(source, pictures, tmp_path / "cut", "--stages.denoiser.checkpoint-every", "3", steps=6) == 0
    whole, cut = (tensors(tmp_path / name / "model") for name in ("whole", "cut"))
    for file, values in whole.items():
        for name, value in values.items():
            np.testing.assert_array_equal(cut[file][name], value, err_msg=name)


def test_what_cannot_be_trained_on_is_one_line(folders, pictures, tmp_path, capsys):
    plain = tmp_path / "plain"
    plain.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16)).save(plain / f"{i}.png")
    cases = [
        ((folders["sd15"], plain), "has no captions, which this denoiser is told"),
        ((tmp_path / "nothing", pictures), "denoiser_from: .*nothing holds no denoiser"),
        ((folders["sd15"], pictures, "--process.prediction", "v"), "process.prediction: v must be left out"),
    ]
    for (source, data, *more), message in cases:
        assert train(source, data, tmp_path / "run", *more) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert re.search(message, err), err
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["whole", "attention", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_opens_what_is_written(kind, what, folders, pictures, tmp_path, capsys):
    """It draws the same image from the same noise; needs LDM_JAX_TORCH_PYTHON, a Python with diffusers and peft."""
    python = os.environ.get("LDM_JAX_TORCH_PYTHON")
    if not python:
        pytest.skip("LDM_JAX_TORCH_PYTHON is not set")
    more = {"whole": (), "attention": ("--stages.denoiser.trains", "attention"), "lora": ("--adapter.rank", "4")}[what]
    assert train(folders[kind], pictures, tmp_path, *more) == 0, capsys.readouterr().err
    folder, files = (tmp_path / "model", []) if what != "lora" else (folders[kind], [tmp_path / "adapter"])
    model = ldm_jax.load(folder)
    for file in files:
        model = model.load_lora(file)
    latents = model.sample(jax.random.key(0), output="latents", **pipelines.arguments(kind))
    np.savez(tmp_path / "drawn.npz", image=np.asarray(model.decode(latents)) / 2 + 0.5)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("XLA", "JAX"))}
    script = [python, pipelines.ROOM / "finetuned.py", "check", kind, folder, tmp_path / "drawn.npz", *files]
    done = subprocess.run(list(map(str, script)), env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with capsys.disabled():
        print(f"\n{what}: {done.stdout.strip()}")
