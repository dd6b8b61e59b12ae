"""A disk that is full: one line, what is whole, exit code 1, and nothing half-written that could be taken for whole."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.command import guarded
from ldm_jax.errors import SAVED
from ldm_jax.files import mapped_array, whole
from ldm_jax.output import SampleMetadata, write_output
from ldm_jax.pretrained.tensors import Info
from ldm_jax.pretrained.writing import write_safetensors
from tests.weather.runs import finish, images, start, weights


@pytest.fixture
def disk(tmp_path):
    """A function from a size to the folder of a file system that is no larger, or is made so."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size, again=False, access="rw"):
        option = f"{'remount,' * again}size={size},{access}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", place], capture_output=True)
        if done.returncode:
            pytest.skip("only root can mount a small file system")
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    yield sized
    subprocess.run(["umount", "-l", place], capture_output=True)


def test_a_mapped_array_is_an_error_and_no_signal(disk):
    place = disk("64k")
    with pytest.raises(OSError, match="No space left"):
        mapped_array(place / "moments.npy.tmp", np.dtype(np.float32), (100_000,))
    assert not list(place.iterdir())
    mapped_array(place / "small.npy", np.dtype(np.float32), (1000,))[:] = 3.0
    assert np.load(place / "small.npy").sum() == 3000.0


def test_weights_and_reports_are_whole_or_not_there(disk, capfd):
    place = disk("64k")
    tensor = np.zeros(100_000, np.float32)

    def save():
        write_safetensors(place / "x.safetensors", {"w": (Info(tensor.dtype, tensor.shape), lambda: tensor)}, {})
        return 0

    def report():
        with whole(place / "report.json") as temporary:
            temporary.write_text("x" * 100_000)
        return 0

    for name, action in (("x.safetensors", save), ("report.json", report)):
        assert guarded("convert", action) == 1
        err = capfd.readouterr().err
        assert err.startswith("convert: error: ") and "space" in err and err.count("\n") == 1, (name, err)
        assert not list(place.iterdir())


@pytest.mark.parametrize("name", ["x.png", "x.npz", "folder"])
def test_samples(name, disk, capfd):
    place = disk("96k")
    drawn = np.random.default_rng(0).integers(0, 255, (64, 32, 32, 3), dtype=np.uint8)
    metadata = SampleMetadata(64, 0, [0] * 64, ["bag"] * 64, {}, ("bag",))
    assert guarded("sample", lambda: bool(write_output(place / name, iter([drawn]), metadata, 8))) == 1
    err = capfd.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1
    if name != "folder":
        assert not list(place.iterdir())
        return
    rows = [json.loads(line) for line in (place / name / "metadata.jsonl").read_text().splitlines()]
    files = sorted(path.name for path in (place / name).glob("*.png*"))
    assert 0 < len(rows) < 64 and [row["file_name"] for row in rows] == files
    assert f"{SAVED}{len(rows)} of 64 pictures are in" in err
    for file in files:
        assert np.asarray(Image.open(place / name / file)).shape == (32, 32, 3)


@pytest.mark.slow
def test_training_goes_on_when_there_is_room(disk, tmp_path):
    """Full in the first checkpoint, in later ones, in the latents and in the model: the weights are the same."""
    data = images(tmp_path / "data.npz")
    code, _, err = finish(start(tmp_path / "alone", data))
    assert code == 0, err
    for size in ("300k", "1000k", "2000k", "3000k"):
        place = disk(size)
        code, _, err = finish(start(place / "run", data))
        if code == 0:
            assert size == "3000k"
        else:
            said = [line for line in err.splitlines() if "rror" in line]
            assert code == 1 and len(said) == 1 and "Traceback" not in err, err
            last = said[0]
            assert last.startswith("train: error: No space left on device") and f"; {SAVED}" in last
            assert ("nothing yet" in last) == (size == "300k")
        disk("50m", again=True)
        code, _, err = finish(start(place / "run", data))
        assert code == 0, err
        assert weights(place / "run") == weights(tmp_path / "alone")
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_run_on_a_disk_that_turned_read_only(disk, tmp_path):
    """One line, nothing lost; when it can be written again the run goes on to what it would have become."""
    data = images(tmp_path / "data.npz")
    assert finish(start(tmp_path / "alone", data))[0] == 0
    place = disk("50m")
    assert finish(start(place / "run", data, "--stages.denoiser.steps", "6"))[0] == 0
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    disk("50m", again=True, access="ro")
    code, _, err = finish(start(place / "run", data))
    assert code == 2 and "Traceback" not in err, err
    assert err.splitlines()[-1].endswith("can't be written (Read-only file system); name a writable folder"), err
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before
    disk("50m", again=True)
    assert finish(start(place / "run", data))[0] == 0
