"""LoRA on published pipelines of random weights: eight pictures are learnt by the adapters alone."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli import run
from tests.conftest import ROOT
from tests.pipeline import pipelines


@pytest.mark.slow
# Measured: 0.09 and 0.08; SD3 0.35, most of it within the first five steps.
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_the_loss_on_eight_images_halves_in_200_steps(kind, tmp_path, capsys):
    rng, lines, pictures = np.random.default_rng(0), [], tmp_path / "pictures"
    pictures.mkdir()
    for i in range(8):
        image = np.empty((16, 16, 3), np.uint8)
        image[:], image[4:12, 4:12] = rng.integers(0, 255, (2, 3))
        Image.fromarray(image).save(pictures / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    folder = pipelines.write(kind, tmp_path / "published")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = {
        "denoiser-from": folder,
        "data.source": f"folder:{pictures}",
        "data.image-size": 16,
        "data.batch-size": 8,
        "adapter.rank": 16,
        "adapter.layers": ".*kernel",
        "stages.denoiser.steps": 200,
        "stages.denoiser.learning-rate": 5e-3,
        "stages.denoiser.warmup": 0,
        "stages.denoiser.log-every": 1,
        "stages.denoiser.decay": "no_decay",
        "sampling.guidance": 1,
        "workdir": tmp_path / "run",
    }
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    assert run("train", [str(ROOT / "configs" / "quickstart.py"), *options]) == 0, capsys.readouterr().err
    found = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(found) == 200
    # Adapters begin as zero: the first losses are those of the base.
    assert np.mean(found[-20:]) < 0.5 * np.mean(found[:2])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
