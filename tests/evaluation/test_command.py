"""evaluate.py as a user types it, on a tiny model, with a small network in place of the published ones."""

import dataclasses
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.cli.evaluate import parse_sweep
from ldm_jax.errors import InputError
from ldm_jax.metrics import frechet_distance, moments, read_statistics
from ldm_jax.pretrained import features

SOURCE = "bundled:fashion_mnist"
COMMON = ["--reference", SOURCE, "--reference-num", "24", "--batch-size", "16"]


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    """Every feature space is a random projection of 32 px images, under the network's own name."""
    w = jax.random.normal(jax.random.key(0), (32 * 32 * 3, 12)) / 50

    @jax.jit
    def project(images):
        x = jnp.broadcast_to(images, (*images.shape[:3], 3)).reshape(len(images), -1).astype(jnp.float32) / 255.0
        pool = jnp.tanh(x @ w)
        return {"pool": pool, "spatial": pool[:, :5], "logits_unbiased": 3 * pool}

    def open_small(name, path=None):
        if path is not None and not path.is_file():
            raise InputError(f"weights: {path} does not exist")
        return features.FeatureSpace(name, hashlib.sha256(name.encode()).hexdigest(), project)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "open_features", open_small)
        yield project


def images(n=20, side=32, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels)).astype(np.uint8)


@pytest.fixture
def samples(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=images())
    return str(tmp_path / "samples.npz")


def test_everything_about_a_model(trained, tmp_path, capfd):
    out = tmp_path / "sub" / "report.json"
    generation = "fid,sfid,is,kid,cmmd,prdc,fd_effnet,kd_effnet,prdc_effnet,vendi_effnet,fd_dinov2,memorization"
    args = [
        *COMMON,
        "--metrics",
        f"{generation},psnr,ssim,rfid,speed",
        "--num",
        "20",
        "--steps",
        "2",
        "--seed",
        "3",
        "--out",
        str(out),
    ]
    assert run("evaluate", [str(trained), *args, "--sweep", "guidance=1,2.5"]) == 0
    text, err = capfd.readouterr()
    assert err == ""
    report = json.loads(out.read_text())
    found = report["metrics"]
    expected = {"FID", "sFID", "IS", "KID", "CMMD", "FD-EffNet", "KD-EffNet", "FD-DINOv2", "PSNR", "SSIM", "rFID"}
    expected |= {f"{name} (Inception)" for name in ("precision", "recall", "density", "coverage")}
    expected |= {"KID error", "Vendi (EffNet)", "copies (EffNet)", "nearest, test (EffNet)", "images/s", "ms/step"}
    assert expected <= set(found)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    # All spaces are the same network here.
    assert found["FID"] == found["FD-EffNet"] == found["FD-DINOv2"] > 0
    protocol = report["protocol"]
    assert protocol["num_samples"] == 20
    assert (protocol["sampler"], protocol["steps"], protocol["guidance"], protocol["seed"]) == ("euler", 2, 3.0, 3)
    assert (protocol["labels"], protocol["rounding"]) == ("balanced", "round")
    assert protocol["reference"]["images"] == 24 and protocol["reference"]["split"] == "train"
    assert protocol["features"]["inception"]["weights_hash"] == hashlib.sha256(b"inception").hexdigest()
    assert protocol["software"]["versions"]["jax"] == jax.__version__
    assert set(protocol["reference"]["images_hash"]) == {"train", "test, rebuilt"}
    assert protocol["reconstruction"]["images"] == 20
    assert len(protocol["subject"]["weights_hash"]) == 64
    assert report["sweep"]["values"] == [1.0, 2.5]
    assert len(report["sweep"]["metrics"]["FID"]) == 2
    # 20 samples, 12 features.
    assert report["notes"] == ["IS: one group of 20 samples; compare it with scores of as many alone"]
    lines = text.splitlines()
    assert lines[0].split() == ["|", "model", "|", str(trained), "|"]
    assert lines[2].split() == ["|", "samples", "|", "20", "|"] and lines[3].startswith("| FID ")
    assert f"report: {out}" in lines and f"panel: {out.with_suffix('.png')}" in lines
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 600 and picture.height > 400
    assert sorted(p.name for p in out.parent.iterdir()) == ["report.json", "report.png"]


def test_a_model_s_numbers_are_those_of_its_samples(trained, tmp_path, small_networks, capfd):
    # sample.py's images, judged from their file, give the same report as the model itself does.
    drawn = tmp_path / "drawn.npz"
    args = ["--num", "20", "--steps", "2", "--seed", "3"]
    assert run("sample", [str(trained), *args, "--out", str(drawn)]) == 0
    reports = []
    for subject, more in ((str(trained), args), (str(drawn), [])):
        out = tmp_path / f"{len(reports)}.json"
        metrics = ["--metrics", "fd_effnet,prdc_effnet"]
        assert run("evaluate", [subject, *COMMON, *metrics, *more, "--out", str(out)]) == 0
        reports.append(json.loads(out.read_text()))
    model, file = reports
    assert model["metrics"] == file["metrics"]
    assert model["protocol"]["subject"]["images_hash"] == file["protocol"]["subject"]["images_hash"]
    assert model["protocol"]["reference"] == file["protocol"]["reference"]
    assert file["protocol"]["labels"] == "given" and file["protocol"]["steps"] is None
    # And the number is the formula's on the features, without any of the machinery.
    with np.load(drawn) as opened:
        ours = small_networks(opened["arr_0"])["pool"]
    source = ldm_jax.data.open_source(SOURCE)
    chosen = np.linspace(0, len(source) - 1, 24).round().astype(int)
    prepared = np.stack([ldm_jax.data.prepare(source[int(i)].image, 32, 1) for i in chosen])
    theirs = small_networks(prepared)["pool"]
    direct = frechet_distance(*(moments(np.asarray(x)).gaussian for x in (ours, theirs)))
    assert model["metrics"]["FD-EffNet"] == pytest.approx(direct, abs=1e-5)
    capfd.readouterr()


def test_a_set_against_itself(tmp_path, samples, capfd):
    out = tmp_path / "same.json"
    names = "fid,sfid,kid,prdc,cmmd"
    assert run("evaluate", [samples, "--reference", samples, "--metrics", names, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["metrics"]
    assert found["FID"] < 1e-6 and found["sFID"] < 1e-6
    assert found["CMMD"] == pytest.approx(0, abs=1e-9)
    assert found["precision (Inception)"] == found["recall (Inception)"] == found["coverage (Inception)"] == 1.0
    capfd.readouterr()


def test_references_are_saved_and_read(tmp_path, samples, capfd):
    saved, out = tmp_path / "reference.npz", tmp_path / "a.json"
    args = [samples, *COMMON, "--metrics", "fid,sfid"]
    assert run("evaluate", [*args, "--save-reference", str(saved), "--out", str(out)]) == 0
    statistics, notes = read_statistics(saved)
    assert set(statistics) == {"pool", "spatial"} and notes["features"] == "inception"
    again = tmp_path / "b.json"
    assert run("evaluate", [samples, "--reference", str(saved), "--metrics", "fid,sfid", "--out", str(again)]) == 0
    first, second = (json.loads(path.read_text()) for path in (out, again))
    for name in ("FID", "sFID"):
        assert first["metrics"][name] == pytest.approx(second["metrics"][name], abs=1e-9)
    assert second["protocol"]["reference"]["file_hash"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    capfd.readouterr()
    assert run("evaluate", [samples, "--reference", str(saved), "--metrics", "kid"]) == 2
    assert "holds statistics of inception features alone" in capfd.readouterr().err
    # Statistics of other weights are refused.
    with np.load(saved) as file:
        np.savez(tmp_path / "other.npz", **{**file, "note_weights_hash": np.asarray("0" * 64)})
    assert run("evaluate", [samples, "--reference", str(tmp_path / "other.npz"), "--metrics", "fid"]) == 2
    assert "made with other inception weights" in capfd.readouterr().err


def test_pictures_of_a_folder_are_samples(tmp_path, samples, capfd):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(images()):
        Image.fromarray(image[..., 0]).save(folder / f"{i:03d}.png")
    results = []
    for subject in (samples, str(folder)):
        assert run("evaluate", [subject, *COMMON, "--metrics", "fd_effnet,is"]) == 0
        results.append(capfd.readouterr().out.splitlines()[2].split("|")[2:])
    assert results[0] == results[1]


def test_nothing_that_was_saved_is_lost(tmp_path, samples, capfd):
    out = tmp_path / "report.json"
    args = [samples, *COMMON, "--metrics", "is", "--out", str(out)]
    out.write_text("mine")
    assert run("evaluate", args) == 2
    assert "report.json exists; name another file, or add --overwrite" in capfd.readouterr().err
    assert out.read_text() == "mine"
    assert run("evaluate", [*args, "--overwrite"]) == 0
    assert json.loads(out.read_text())["metrics"]["IS"] > 1
    capfd.readouterr()


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "--reference"),
        (["--reference", "nowhere.npz"], "reference: nowhere.npz does not exist"),
        (["--reference", "cats"], "reference: 'cats' must be a data source"),
        (["--reference", "bundled:cats"], "bundled:cats"),
        (["--reference", "64.npz"], "reference: its images are 64x64x1, those to be evaluated 32x32x1"),
        (["--reference", "colour.npz"], "reference: its images are 32x32x3, those to be evaluated 32x32x1"),
        (["--reference", "text.npz"], "text.npz is not an .npz"),
        (["--reference", "empty.npz"], "neither arr_0 nor mu and sigma"),
        (["--reference", "mu.npz", "--metrics", "fid"], "statistics are of 3 features and the samples' of 12"),
        (["--reference", "64.npz", "--split", "test"], "split: 'test' can't be chosen"),
        ([*COMMON, "--split", "validation"], "validation"),
        ([*COMMON, "--metrics", "fid,fod"], "metrics: 'fod' must be one of fid, sfid"),
        ([*COMMON, "--metrics", ","], "metrics: name one or more"),
        ([*COMMON, "--num", "1", "--metrics", "fid"], "num: fid needs at least 2 samples; there is 1"),
        ([*COMMON, "--num", "3", "--metrics", "prdc"], "num: prdc needs at least 6 samples; there are 3"),
        ([*COMMON, "--num", "0"], "num: 0 must be at least 1"),
        (["--reference", "one.npz", "--metrics", "fid"], "reference: fid needs at least 2 images; there is 1"),
        (["--reference", "32.npz", "--metrics", "memorization"], "has no test and train split"),
        ([*COMMON, "--metrics", "psnr"], "metrics: psnr is measured on a model"),
        ([*COMMON, "--metrics", "fid", "--sweep", "steps=1,2"], "sweep: it draws samples anew"),
        ([*COMMON, "--sweep", "speed=1"], "sweep: 'speed' must be guidance, steps or ema"),
        ([*COMMON, "--sweep", "steps=1.5"], "must be whole numbers"),
        ([*COMMON, "--sweep", "guidance"], "must have the form"),
        ([*COMMON, "--metrics", "fid", "--weights", "inception=nowhere.pth"], "nowhere.pth does not exist"),
        ([*COMMON, "--metrics", "fid", "--weights", "vgg=a.pth"], "weights: 'vgg' must be one of inception, effnet"),
        ([*COMMON, "--out", "report.txt"], "must end in .json"),
        ([*COMMON, "--out", "/proc/nowhere/r.json"], "out: /proc/nowhere can't be written"),
        ([*COMMON, "--out", "text.npz/r.json"], "out: text.npz can't be written"),
        (
            [*COMMON, "--save-reference", "one.npz"],
            "save-reference: one.npz exists; name another file, or add --overwrite",
        ),
        ([*COMMON, "--save-reference", "/proc/nowhere/r.npz"], "save-reference: /proc/nowhere can't be written"),
        ([*COMMON, "--guidance", "nan"], "guidance: nan must be a finite number"),
        ([*COMMON, "--sweep", "guidance=1,inf"], "sweep: '1,inf' must be finite numbers"),
        (
            [*COMMON, "--seed", "18446744073709551616"],
            "seed: 18446744073709551616 must be at most 18446744073709551615",
        ),
        ([*COMMON, "--reference-num", "1"], "reference_num: 1 must be at least 2"),
        ([*COMMON, "--steps", "5"], "steps: 5 can't be used, SAMPLES holds samples, drawn already; leave it out"),
        ([*COMMON, "--seed", "0"], "seed: 0 can't be used, SAMPLES holds samples"),
        ([*COMMON, "--guidance", "2"], "guidance: 2.0 can't be used, SAMPLES holds samples"),
        ([*COMMON, "--sampler", "euler"], "sampler: euler can't be used, SAMPLES holds samples"),
        ([*COMMON, "--label-policy", "random"], "label_policy: random can't be used, SAMPLES holds samples"),
        ([*COMMON, "--rounding", "up"], "--rounding"),
        ([*COMMON, "--save-reference", "a.npz", "--metrics", "is"], "save-reference: name a Fréchet distance"),
    ],
)
def test_what_is_wrong_in_one_line(args, words, samples, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write("64.npz", arr_0=images(side=64))
    write("32.npz", arr_0=images(seed=1))
    write("one.npz", arr_0=images(n=1))
    write("colour.npz", arr_0=images(channels=3))
    write("empty.npz", labels=np.zeros(3))
    write("mu.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "text.npz").write_text("no archive")
    before = sorted(tmp_path.iterdir())
    assert run("evaluate", [samples, *args]) == 2
    out, err = capfd.readouterr()
    assert words.replace("SAMPLES", samples) in err
    assert err.startswith("evaluate: error: ") and err.count("\n") == 1
    assert out == ""
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": np.full((4, 8, 8, 1), np.nan, np.float32)}, "4 of 4 images hold NaN or infinite values"),
        ({"arr_0": np.full((4, 8, 8, 1), 9.0, np.float32)}, "goes from 9 to 9; floats must lie in [-1, 1]"),
        ({"arr_0": np.zeros((4, 8, 8, 1), np.int32)}, "is int32; accepted: uint8, or floats"),
        ({"arr_0": np.zeros((4, 8, 8), np.uint8)}, "has shape [4, 8, 8]; accepted: [n h w c]"),
        ({"arr_0": np.zeros((4, 8, 8, 4), np.uint8)}, "has shape [4, 8, 8, 4]"),
        ({"arr_0": np.array([{}], object)}, "arr_0 can't be read"),
        ({"images": images()}, "has no arr_0 (it has images)"),
    ],
)
def test_samples_that_are_none(arrays, words, tmp_path, capfd):
    path = write(tmp_path / "bad.npz", **arrays)
    assert run("evaluate", [path, *COMMON]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


def test_subjects_that_are_none(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "mixed" / "a.png")
    Image.new("L", (9, 8)).save(tmp_path / "mixed" / "b.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_text("no picture")
    for name, words in (
        ("nowhere", "nowhere does not exist"),
        ("empty", "has no model_index.json"),
        ("mixed", "b.png is 8x9x1, the first picture 8x8x1"),
        ("mixed/a.png", "is one picture"),
        ("broken", "a.png can't be read"),
    ):
        assert run("evaluate", [str(tmp_path / name), *COMMON, "--metrics", "fid"]) == 2
        err = capfd.readouterr().err
        assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--metrics", "ms_ssim"], "metrics: ms_ssim needs images of 161 px or more; the model's are 32x32"),
        (["--sampler", "magic", "--metrics", "fid"], "sampler: 'magic' must be one of"),
        (["--steps", "0", "--metrics", "fid"], "steps: 0 must be at least 1"),
        (["--metrics", "psnr", "--sweep", "steps=1,2"], "sweep: name a metric of samples"),
    ],
)
def test_what_a_model_cannot_do(args, words, trained, capfd):
    assert run("evaluate", [str(trained), *COMMON, *args]) == 2
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_model_that_draws_nan(trained, tmp_path, capfd):
    broken = shutil.copytree(trained / "model", tmp_path / "model")
    model = ldm_jax.load(broken)
    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), model.denoiser_params)
    dataclasses.replace(model, denoiser_params=nan).save(broken)
    args = ["--num", "4", "--steps", "2", "--metrics", "fd_effnet", "--out", str(tmp_path / "r.json")]
    assert run("evaluate", [str(broken), *COMMON, *args]) == 2
    err = capfd.readouterr().err
    assert "model: it draws NaN or infinity" in err and err.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


def test_an_autoencoder_alone(trained, tmp_path, capfd):
    model = ldm_jax.load(trained)
    dataclasses.replace(model, denoiser=None, denoiser_params=None).save(tmp_path / "model")
    out = tmp_path / "report.json"
    assert run("evaluate", [str(tmp_path / "model"), *COMMON, "--num", "20", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report["metrics"]) == {"rFD-EffNet", "PSNR", "SSIM"}
    assert report["protocol"]["num_samples"] is None and report["protocol"]["sampler"] is None
    assert out.with_suffix(".png").is_file()
    capfd.readouterr()
    assert run("evaluate", [str(tmp_path / "model"), *COMMON, "--metrics", "fid"]) == 2
    assert "fid needs samples" in capfd.readouterr().err
    assert run("evaluate", [str(tmp_path / "model"), *COMMON, "--steps", "5"]) == 2
    assert "steps: 5 can't be used" in capfd.readouterr().err


def test_label_policies(trained):
    from ldm_jax.evaluation.subjects import Drawing, ModelSubject

    subject = ModelSubject(trained, ldm_jax.load(trained))
    drawing = Drawing(25, "euler", 2, 1.0, 7, "balanced", 16, "round")
    labels = subject.conditions(drawing, None)[0]["labels"]
    assert np.ptp(np.bincount(labels, minlength=10)) <= 1
    drawn = [
        subject.conditions(dataclasses.replace(drawing, labels="random", seed=s), None)[0]["labels"] for s in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) <= set(range(10)) and np.ptp(np.bincount(drawn[0], minlength=10)) > 1


def test_sweeps_are_numbers():
    assert parse_sweep("guidance=1,1.5,2,4") == ("guidance", (1.0, 1.5, 2.0, 4.0))
    assert parse_sweep("steps=5,10,10") == ("steps", (5.0, 10.0))
    for text in ("steps=0,5", "guidance=", "=1", "guidance=a"):
        with pytest.raises(InputError):
            parse_sweep(text)
