"""evaluate.py with the published networks' own loaders: what it says where weights are missing or other ones."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ldm_jax import evaluation, pretrained
from ldm_jax.cli import run
from ldm_jax.evaluation.numbers import GENERATION
from ldm_jax.evaluation.spaces import open_comparisons, weights_path
from ldm_jax.models import LPIPS, LPIPSConfig
from ldm_jax.models.efficientnet import EfficientNetFeatures
from ldm_jax.models.inception import InceptionFeatures

SOURCE = "bundled:fashion_mnist"


@pytest.fixture
def samples(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((8, 32, 32, 1), np.uint8))
    return str(tmp_path / "samples.npz")


@pytest.mark.parametrize(
    ("metric", "network"), [("fid", "inception"), ("fd_dinov2", "dinov2"), ("cmmd", "clip"), ("fd_effnet", "effnet")]
)
def test_weights_of_another_architecture(metric, network, samples, tmp_path, capfd):
    other = tmp_path / "other.safetensors"
    save_file({"some.weight": np.zeros((3, 4), np.float32)}, other)
    args = ["--reference", SOURCE, "--metrics", metric, "--weights", f"{network}={other}"]
    assert run("evaluate", [samples, *args]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("evaluate: error: ") and "other.safetensors" in err and err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("metric", ["fid", "fd_dinov2", "cmmd"])
def test_missing_weights_say_where_to_get_them(metric, samples, capfd, monkeypatch):
    for name in ("INCEPTION", "DINOV2", "CLIP"):
        monkeypatch.delenv(f"LDM_JAX_WEIGHTS_{name}", raising=False)
    assert run("evaluate", [samples, "--reference", SOURCE, "--metrics", metric]) == 2
    err = capfd.readouterr().err
    assert "weights" in err and "get " in err and err.count("\n") == 1


def test_weights_are_named_by_option_or_environment(monkeypatch):
    monkeypatch.setenv("LDM_JAX_WEIGHTS_INCEPTION", "/there/a.pth")
    assert str(weights_path("inception", {})) == "/there/a.pth"
    assert str(weights_path("inception", {"inception": "/here/b.pth"})) == "/here/b.pth"
    assert weights_path("effnet", {}) is None


@pytest.fixture
def random_lpips(monkeypatch):
    """LPIPS with AlexNet's shape and random weights, in place of the package's."""
    module = LPIPS(LPIPSConfig("alexnet"))
    params = jax.jit(module.init)(jax.random.key(0), *module.example_inputs())["params"]
    monkeypatch.setattr(pretrained, "load_lpips", lambda network, path=None: (module, params))


def test_lpips_takes_grey_levels_of_one_channel_or_three(random_lpips):
    compare = open_comparisons(["lpips_alex", "psnr"], {})["lpips_alex"]
    assert compare.label == "LPIPS (AlexNet)" and len(compare.weights_hash) == 64
    x, y = (np.random.default_rng(i).integers(0, 256, (2, 32, 32, 1)).astype(np.float32) for i in range(2))
    x, y = jax.numpy.asarray(x), jax.numpy.asarray(y)
    grey = compare.distance(x, y)
    # Random heads may be negative, published ones are not.
    assert grey.shape == (2,) and float(abs(grey).min()) > 0
    np.testing.assert_allclose(compare.distance(x.repeat(3, -1), y.repeat(3, -1)), grey, rtol=1e-5)
    np.testing.assert_allclose(compare.distance(x, x), 0.0, atol=1e-6)


def test_lpips_of_a_model(random_lpips, trained, tmp_path):
    options = evaluation.Options(
        trained, SOURCE, ("lpips_alex", "psnr"), num=6, batch_size=4, reference_num=20, picture=False
    )
    result = evaluation.evaluate(options)
    assert set(result.report.metrics) == {"LPIPS (AlexNet)", "PSNR"}
    assert result.picture is None
    protocol = json.loads(result.report.to_json())["protocol"]
    assert protocol["features"]["lpips_alex"]["name"] == "LPIPS (AlexNet)"
    assert protocol["reconstruction"]["images"] == 6


def test_metrics_ask_the_networks_for_what_they_give():
    given = {
        "inception": set(InceptionFeatures._fields),
        "effnet": set(EfficientNetFeatures._fields),
        "dinov2": {"pool"},
        "clip": {"pool"},
        "pixels": {"pool"},
    }
    for metric in GENERATION.values():
        for wanted in (metric.samples, metric.reference, metric.train, metric.test):
            assert wanted.moments | wanted.arrays <= given[metric.space]
    assert GENERATION["is"].samples.arrays == {"logits_unbiased"}
