"""Models of the Hub by name, from a local cache and without a network."""

import os
import subprocess
import sys

import pytest

from ldm_jax.errors import InputError
from ldm_jax.pretrained import hub
from tests.pipeline import pipelines


@pytest.fixture
def cache(tmp_path):
    """A cache as huggingface_hub leaves it, with one tiny pipeline in it."""
    place = tmp_path / "hub" / "models--tiny--sd15"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    pipelines.write("sd15", snapshot)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    return tmp_path / "hub"


def run(code, cache):
    """Python in a process of its own: the library reads its environment once."""
    env = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run([sys.executable, *code], env=env, capture_output=True, text=True)


def test_a_pipeline_by_its_name(cache):
    load = "import ldm_jax; print(ldm_jax.load('hf:tiny/sd15').published)"
    done = run(["-c", f"from ldm_jax.cli import main; main(['inspect', 'hf:tiny/sd15']); {load}"], cache)
    assert done.returncode == 0, done.stderr
    assert "unet: UNet" in done.stdout and "text_encoder: TextEncoder" in done.stdout
    assert done.stdout.strip().endswith("StableDiffusionPipeline")


def test_what_cannot_be_had_is_one_line(cache):
    done = run(["-m", "ldm_jax", "inspect", "hf:tiny/other"], cache)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "hf:tiny/other can't be had" in line
    assert line.endswith("or download huggingface.co/tiny/other by hand and name its folder")


def test_names_and_paths(tmp_path, monkeypatch):
    assert hub.local(tmp_path) == tmp_path
    for wrong in ("hf:", "hf:name", "hf:a/b/c", "hf:a/b@"):
        with pytest.raises(InputError, match="must have the form hf:ORG/NAME"):
            hub.local(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "ldm-jax\[hub\]"'):
        hub.local("hf:tiny/sd15")
