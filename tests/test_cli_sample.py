"""sample.py as a user types it, in this process."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.cli import run
from ldm_jax.data import open_source
from ldm_jax.output import SampleMetadata, write_output
from tests.pipeline import pipelines


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def picture(tmp_path_factory):
    """A picture that nobody drew."""
    path = tmp_path_factory.mktemp("picture") / "x.png"
    Image.new("L", (32, 32), 99).save(path)
    return path


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--label", "10"], "label: 10 must be between 0 and 9"),
        (["--labels", "0", "-1"], "label: -1"),
        (["--label", "x"], "label: 'x' must be between 0 and 9, or one of T-shirt/top, Trouser, "),
        (["--label", "Bagg"], "label: 'Bagg' (perhaps 'Bag'?) must be between 0 and 9, or one of T-shirt/top"),
        (["--first", "-1", "--num", "1"], "first: -1 must be at least 0"),
        (["--num", "3000000000"], "num: 3000000000 must be at most 2147483647"),
        (["--first", "2147483647", "--num", "1"], "first: 2147483647 and num: 1 must be at most 2147483647 together"),
        (["--seed", "-1"], "seed: -1 must be at least 0"),
        (["--seed", "18446744073709551616"], "seed: 18446744073709551616 must be at most 18446744073709551615"),
        (["--guidance", "nan"], "guidance: nan must be a finite number"),
        (["--guidance", "inf"], "guidance: inf must be a finite number"),
        (["--num", "1000000"], "out: a picture of 1,000,000 images would have 320 x 3,200,000 pixels; name an .npz"),
        (["--height", "0"], "height: 0 must be at least 1"),
        (["--label", "1", "--labels", "1"], "not allowed"),
        (["--prompt", "a shoe"], "prompt: this model has no text encoder; it takes labels: sample.py MODEL --label N"),
        (["--negative", "blur"], "negative: this model has no text encoder; it takes labels: sample.py MODEL --label"),
        (["--upscale", "IMAGE"], "upscale: this model doesn't enlarge images; it takes --image FILE --strength S"),
        (["--strength", "0.5"], "strength: it changes nothing without --image FILE"),
        (["--prompts-file", "nowhere.txt"], "prompts_file: nowhere.txt can't be read (No such file or directory)"),
        (["--again", "nowhere.png"], "again: nowhere.png can't be read as a picture"),
        (["--again", "IMAGE"], "doesn't tell how it was drawn; name a .png that sample.py wrote"),
        (["--sampler", "magic"], "sampler: 'magic' must be one of"),
        (["--steps", "0"], "steps: 0"),
        (["--num", "0"], "num: 0"),
        (["--batch-size", "0"], "batch_size: 0"),
        (["--out", "x.jpg"], "out: x.jpg must end in"),
        (["--seeds", "1"], "--seeds"),
        (["--variant", "fp16"], "variant: 'fp16' can't be used, no part of"),
        (["--embedding", "x.safetensors="], "embedding: 'x.safetensors=' must have the form FILE or FILE=TOKEN"),
    ],
)
def test_sample_says_what_is_wrong_in_one_line(args, words, trained, picture, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run("sample", [str(trained), *[str(picture) if arg == "IMAGE" else arg for arg in args]]) == 2
    out, err = capfd.readouterr()
    assert words in err
    assert err.count("\n") == 1
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_sample_needs_a_model(trained, tmp_path, capfd):
    for place, words in (
        (tmp_path, "has no model_index.json; name a finished run's folder"),
        (tmp_path / "nowhere", "nowhere does not exist; name a finished run's folder"),
        (trained / "model" / "vae", "vae is a part of a model; name a finished run's folder"),
    ):
        assert run("sample", [str(place)]) == 2
        assert words in capfd.readouterr().err


def test_sample_writes_png_npz_and_folder(trained, tmp_path, capfd):
    common = [str(trained), "--num", "6", "--steps", "2", "--seed", "5"]
    assert run("sample", [*common, "--labels", "3", "7", "--out", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as data:
        images, labels = data["arr_0"], data["label"]
    assert images.shape == (6, 32, 32, 1)
    assert images.dtype == np.uint8
    assert sorted(labels) == [3, 3, 3, 7, 7, 7]
    assert run("sample", [*common, "--labels", "3", "7", "--out", str(tmp_path / "grid" / "a.png")]) == 0
    grid = pixels(tmp_path / "grid" / "a.png")
    assert grid.shape == (96, 64)
    np.testing.assert_array_equal(grid[:32, 32:64], images[1, ..., 0])
    assert run("sample", [*common, "--label", "3", "--out", str(tmp_path / "many")]) == 0
    files = sorted((tmp_path / "many").iterdir())
    assert [f.name for f in files] == [*(f"{i:06d}.png" for i in range(6)), "metadata.jsonl"]
    np.testing.assert_array_equal(pixels(files[0]), images[0, ..., 0])


def refused(args, capfd):
    """The line on stderr of a command that must fail because of its input."""
    assert run("sample", args) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_nothing_is_overwritten_unasked(trained, tmp_path, capfd):
    common = [str(trained), "--label", "3", "--num", "2", "--steps", "1"]
    for name in ("a.png", "a.npz", "folder"):
        out = ["--out", str(tmp_path / name)]
        assert run("sample", [*common, *out]) == 0
        capfd.readouterr()
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert "add --overwrite to replace" in refused([*common, *out, "--seed", "1"], capfd)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert run("sample", [*common, *out, "--seed", "1", "--num", "1", "--overwrite"]) == 0
        capfd.readouterr()
    # Of two pictures one is left, not a stale one beside it.
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["000000.png", "metadata.jsonl"]
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (1, 32, 32, 1)
    assert pixels(tmp_path / "a.png").shape == (32, 32)


def test_the_default_picture_is_not_overwritten_either(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.png").write_text("mine")
    err = refused([str(trained)], capfd)
    assert err == "sample: error: out: samples.png exists; name another file, or add --overwrite to replace it\n"
    assert (tmp_path / "samples.png").read_text() == "mine"


def test_a_folder_with_somebody_elses_pictures(trained, tmp_path, capfd):
    Image.new("L", (8, 8)).save(tmp_path / "cat.jpg")
    args = [str(trained), "--num", "1", "--out", str(tmp_path), "--overwrite"]
    # pytest's folders have no ending.
    assert f"out: {tmp_path} holds other pictures (cat.jpg); name a new or empty folder" in refused(args, capfd)


def test_a_folder_of_samples_is_a_data_source(trained, tmp_path, capfd):
    out = tmp_path / "drawn"
    args = ["--labels", "Bag", "7", "--num", "5", "--first", "3", "--steps", "1", "--batch-size", "2"]
    assert run("sample", [str(trained), *args, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    # Image 3 is the fourth of "Bag, Sneaker, Bag, Sneaker, ...".
    expected = [("Sneaker", 7), ("Bag", 8)] * 3
    assert rows == [
        {"file_name": f"{3 + i:06d}.png", "label": label, "text": name} for i, (name, label) in enumerate(expected[:5])
    ]
    assert run("sample", [str(trained), *args, "--out", str(tmp_path / "drawn.npz")]) == 0
    for spec in (f"folder:{out}", f"npz:{tmp_path / 'drawn.npz'}"):
        found = []
        for split in ("train", "test"):
            source = open_source(spec, split)
            # A folder calls each class by its number in the model, an archive has the names of all.
            named = spec.startswith("npz")
            assert source.class_names == (ldm_jax.load(trained).class_names if named else ("7", "8"))
            for i in range(len(source)):
                label = source[i].label
                found.append((source[i].captions, label if named else int(source.class_names[label])))
        assert sorted(found) == sorted(((name,), label) for name, label in expected[:5])
    capfd.readouterr()


def test_image_i_of_a_larger_set(trained, tmp_path, capfd):
    common = [str(trained), "--labels", "3", "7", "9", "--steps", "2", "--seed", "5"]
    for name, more in (
        ("all", ["--num", "8", "--batch-size", "8"]),
        ("one", ["--num", "1", "--first", "4"]),
        ("some", ["--num", "3", "--first", "4", "--batch-size", "2"]),
    ):
        assert run("sample", [*common, *more, "--out", str(tmp_path / f"{name}.npz")]) == 0
    every, one, some = (np.load(tmp_path / f"{name}.npz") for name in ("all", "one", "some"))
    assert one["label"].tolist() == [7] and some["label"].tolist() == [7, 9, 3]
    np.testing.assert_array_equal(one["arr_0"], every["arr_0"][4:5])
    np.testing.assert_array_equal(some["arr_0"], every["arr_0"][4:7])
    capfd.readouterr()


def test_drawn_in_batches_it_is_what_python_draws(trained, tmp_path, capfd):
    out = tmp_path / "a.npz"
    args = ["--num", "12", "--steps", "2", "--seed", "4", "--batch-size", "8"]
    assert run("sample", [str(trained), *args, "--out", str(out)]) == 0
    # Exactly, on the devices that the command uses; another split of a batch may round a sum otherwise.
    models = ldm_jax.load(trained, sharding=ldm_jax.pipeline.everywhere()), ldm_jax.load(trained)
    same, alone = (model.sample(jax.random.key(4), num=12, steps=2, batch_size=8) for model in models)
    with np.load(out) as data:
        np.testing.assert_array_equal(data["arr_0"], same)
        assert np.abs(data["arr_0"].astype(int) - alone).max() <= 1
        assert data["label"].tolist() == [*range(10), 0, 1]
        assert data["captions"][:2].tolist() == ["T-shirt/top", "Trouser"]
    capfd.readouterr()


def test_every_bit_of_the_seed_counts(trained, tmp_path, capfd):
    drawn = []
    for seed in (5, 2**32 + 5, 2**63 + 5):
        out = tmp_path / f"{seed}.npz"
        assert run("sample", [str(trained), "--num", "8", "--steps", "1", "--seed", str(seed), "--out", str(out)]) == 0
        drawn.append(np.load(out)["arr_0"])
    assert not any(np.array_equal(a, b) for a, b in ((drawn[0], drawn[1]), (drawn[0], drawn[2]), drawn[1:]))
    capfd.readouterr()


def test_a_picture_is_drawn_once_more_from_itself(trained, tmp_path, capfd):
    folder, again = tmp_path / "folder", tmp_path / "again.png"
    args = ["--label", "Bag", "--num", "3", "--steps", "2", "--seed", "4294967301", "--guidance", "2.5"]
    assert run("sample", [str(trained), *args, "--out", str(folder)]) == 0
    with Image.open(folder / "000002.png") as image:
        told = json.loads(image.text["parameters"])
    assert told["model"] == str(trained)
    assert (told["labels"], told["seed"], told["first"], told["num"]) == ([8], 4294967301, 2, 1)
    assert (told["steps"], told["guidance"], told["sampler"]) == (2, 2.5, "euler")
    assert run("sample", ["--again", str(folder / "000002.png"), "--out", str(again)]) == 0
    np.testing.assert_array_equal(pixels(again), pixels(folder / "000002.png"))
    # What is given beside it differs, and the new picture tells that.
    other = tmp_path / "other.png"
    assert run("sample", ["--again", str(again), "--label", "3", "--steps", "1", "--out", str(other)]) == 0
    with Image.open(other) as image:
        changed = json.loads(image.text["parameters"])
    assert changed == told | {"labels": [3], "steps": 1}
    capfd.readouterr()


def test_a_grid_is_drawn_once_more(trained, tmp_path, capfd):
    grids = tmp_path / "a.png", tmp_path / "b.png"
    assert (
        run("sample", [str(trained), "--labels", "3", "7", "--num", "4", "--steps", "1", "--out", str(grids[0])]) == 0
    )
    assert run("sample", ["--again", str(grids[0]), "--out", str(grids[1])]) == 0
    assert grids[0].read_bytes() == grids[1].read_bytes()
    capfd.readouterr()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": "one"}, "tells a seed that can't be used, 'one'"),
        ({"labels": [True]}, "tells a labels that can't be used"),
        ({"model": "nowhere"}, "nowhere does not exist"),
        ({"model": "nowhere", "seed": -4}, "seed: -4 must be at least 0"),
        ({"guidance": float("nan"), "model": "nowhere"}, "guidance: nan must be a finite number"),
        ({}, "model: name a run's folder"),
    ],
)
def test_pictures_that_tell_nonsense(settings, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    ldm_jax.images.write_png(tmp_path / "x.png", np.zeros((8, 8, 1), np.uint8), settings=settings)
    assert words in refused(["--again", "x.png"], capfd)


def interrupted(count):
    """So many batches of two images, and then Ctrl-C."""
    for i in range(count):
        yield np.full((2, 8, 8, 3), i, np.uint8)
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_pictures_that_are_finished(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("ldm_jax.pipeline.streaming.stream", lambda *args, **settings: interrupted(2))
    out = tmp_path / "many"
    assert run("sample", [str(trained), "--num", "50", "--out", str(out)]) == 130
    assert capfd.readouterr() == ("", f"sample: interrupted; 4 of 50 pictures are in {out}\n")
    assert len(list(out.glob("*.png"))) == 4
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 4
    for name in ("x.npz", "x.png"):
        assert run("sample", [str(trained), "--num", "50", "--out", str(tmp_path / name)]) == 130
        assert capfd.readouterr().err == "sample: interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["many"]


def test_a_disk_that_fills_up(trained, tmp_path, monkeypatch, capfd):
    write = ldm_jax.images.write_png

    def filling(path, image, **settings):
        if path.name == "000002.png":
            raise OSError(28, "No space left on device", str(path))
        write(path, image, **settings)

    monkeypatch.setattr("ldm_jax.images.write_png", filling)
    out = tmp_path / "many"
    args = [str(trained), "--num", "4", "--steps", "1"]
    assert run("sample", [*args, "--out", str(out)]) == 1
    saved = f"saved: 2 of 4 pictures are in {out}"
    assert capfd.readouterr() == ("", f"sample: error: No space left on device: {out / '000002.png'}; {saved}\n")
    assert sorted(p.name for p in out.iterdir()) == ["000000.png", "000001.png", "metadata.jsonl"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9_999))
    for name, size in (("x.npz", "0.0 MB"), ("folder", "0.1 MB")):
        assert f"{name} needs about {size}, 0.0 MB are free" in refused(
            [*args, "--num", "20", "--out", str(tmp_path / name)], capfd
        )


def test_only_a_picture_is_limited_to_some_classes(tmp_path, capfd):
    metadata = SampleMetadata(4, 0, [0, 1, 2, 3], None, {})
    batches = (np.full((2, 8, 8, 1), i, np.uint8) for i in range(2))
    with np.load(write_output(tmp_path / "a.npz", batches, metadata, 8)) as data:
        assert data["arr_0"][:, 0, 0, 0].tolist() == [0, 0, 1, 1]
        assert data["label"].tolist() == [0, 1, 2, 3] and "captions" not in data
    folder = pipelines.write("dit", tmp_path / "dit")
    common = [str(folder), "--steps", "1", "--guidance", "1", "--batch-size", "32"]
    assert run("sample", [*common, "--out", str(tmp_path / "a.png")]) == 0
    expected = "note: the picture shows classes 0 to 15 of 1000; choose with --labels, or name an .npz or a folder\n"
    assert capfd.readouterr().err == expected
    assert run("sample", [*common, "--num", "32", "--out", str(tmp_path / "b.npz")]) == 0
    assert capfd.readouterr().err == ""
    assert np.load(tmp_path / "b.npz")["label"].tolist() == list(range(32))


def test_prompts_from_a_file(tmp_path, capfd):
    folder = pipelines.write("sd15", tmp_path / "sd")
    # Lines end at newlines alone.
    prompts = ["a cat", "a dog\u2028with a hat", "a fish"]
    (tmp_path / "prompts.txt").write_text("\n".join([prompts[0], "", *prompts[1:]]) + "\n", "utf-8")
    out, common = tmp_path / "drawn", [str(folder), "--steps", "1", "--negative", "blur"]
    assert run("sample", [*common, "--prompts-file", str(tmp_path / "prompts.txt"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text("utf-8").split("\n") if line]
    assert rows == [{"file_name": f"{i:06d}.png", "text": text} for i, text in enumerate(prompts)]
    # Each is drawn for its own text.
    alone = tmp_path / "alone.npz"
    assert run("sample", [*common, "--prompt", *prompts, "--num", "3", "--out", str(alone)]) == 0
    with np.load(alone) as data:
        assert data["captions"].tolist() == prompts
        for i in range(3):
            np.testing.assert_array_equal(pixels(out / f"{i:06d}.png"), data["arr_0"][i])
    capfd.readouterr()
    (tmp_path / "empty.txt").write_text("\n\n")
    assert "empty.txt holds no text" in refused([*common, "--prompts-file", str(tmp_path / "empty.txt")], capfd)
    again = [
        str(folder),
        "--prompt",
        "a cat",
        "--negative",
        "blur",
        "--guidance",
        "1",
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert "negative: without guidance it changes nothing" in refused(again, capfd)
    args = [str(folder), "--label", "3", "--out", str(tmp_path / "x.png")]
    expected = "label: this model has no classes; it takes prompts: sample.py MODEL --prompt TEXT"
    assert expected in refused(args, capfd)
