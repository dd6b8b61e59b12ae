"""convert and inspect as a user types them, in this process."""

import shutil

import chex
import jax

from ldm_jax.cli import run
from ldm_jax.pretrained import load_part
from tests.pipeline import pipelines


def test_convert_reads_a_trained_part_and_tells_every_tensor(trained, tmp_path, capfd):
    assert run("convert", [str(trained / "model" / "transformer"), str(tmp_path / "out")]) == 0
    out = capfd.readouterr().out
    assert "0 left over, 0 missing" in out
    module, params = load_part(tmp_path / "out")
    again, same = load_part(trained / "model" / "transformer")
    assert module == again
    chex.assert_trees_all_equal(params, same)
    assert run("convert", [str(trained / "model" / "transformer"), str(tmp_path / "out")]) == 2
    assert "name a folder that is new or empty" in capfd.readouterr().err
    assert run("convert", [str(tmp_path / "nothing"), str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def refused(args, capfd, command="convert"):
    """The line on stderr of a command that must fail because of its input."""
    assert run(command, [str(arg) for arg in args]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_only_what_is_not_mapped_is_listed(trained, tmp_path, capfd):
    part = trained / "model" / "vae"
    for more, lines in ((["--verbose"], 20), ([], 2)):
        assert run("convert", [str(part), str(tmp_path / f"{lines}"), *more]) == 0
        out = capfd.readouterr().out.splitlines()
        assert len(out) >= lines if more else out[0].endswith("0 left over, 0 missing") and len(out) == 2
        assert out[-1] == f"model: {tmp_path / f'{lines}'}"


def test_convert_refuses_before_the_table(trained, tmp_path, capfd):
    vae, new = trained / "model" / "vae", tmp_path / "new"
    for args, words in (
        (["--layout", "original"], "dst: "),
        (["--heads", "8"], "heads: 8 can't be used, the config.json of"),
        (["--heads", "0"], "heads: 0 must be at least 1"),
        (["--dtype", "int8"], "--dtype"),
    ):
        assert words in refused([vae, new, *args], capfd)
    err = refused([vae, tmp_path / "new.safetensors", "--layout", "original"], capfd)
    assert f"layout: 'original' is for a single DiT, {vae} holds a Autoencoder; leave --layout out" in err
    file = next(vae.glob("*.safetensors"))
    assert "variant: 'fp16' can't be used" in refused([file, new, "--variant", "fp16"], capfd)
    assert "must be another place than src" in refused([vae, vae], capfd)
    assert "must be another place than src" in refused([vae, trained / "model"], capfd)
    assert not list(tmp_path.iterdir())


def test_convert_overwrites_a_model_alone(trained, tmp_path, capfd):
    vae, dst = trained / "model" / "vae", tmp_path / "dst"
    dst.mkdir()
    (dst / "diary.txt").write_text("mine")
    assert "dst exists; name a folder that is new or empty, or add --overwrite" in refused([vae, dst], capfd)
    assert "dst holds something else than a model" in refused([vae, dst, "--overwrite"], capfd)
    (dst / "config.json").write_text("{}")
    assert run("convert", [str(vae), str(dst), "--overwrite"]) == 0
    capfd.readouterr()
    chex.assert_trees_all_equal(load_part(dst)[1], load_part(vae)[1])
    assert [p.name for p in tmp_path.iterdir()] == ["dst"] and not (dst / "diary.txt").exists()


def test_a_conversion_that_fails_leaves_nothing(trained, tmp_path, monkeypatch, capfd):
    def full(*args, **settings):
        (args[1] / "part").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ldm_jax.pretrained.conversion.convert", full)
    assert run("convert", [str(trained / "model" / "vae"), str(tmp_path / "dst")]) == 1
    assert capfd.readouterr().err == "convert: error: No space left on device\n"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
    assert "dst needs about 0.0 MB, 0.0 MB are free" in refused([trained / "model" / "vae", tmp_path / "dst"], capfd)


def test_inspect_a_run(trained, capfd):
    assert run("inspect", [str(trained)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"run: {trained}"
    assert lines[1].startswith("  autoencoder: step 8 of 8, loss ") and "; checkpoints at " in lines[1]
    assert lines[1].endswith(" 8")
    assert "    seed: 0" in lines and f"model: {trained / 'model'}" in lines
    assert any(line.startswith("  condition: label, 10 classes (T-shirt/top, Trouser, ") for line in lines)
    for folder, kind in (("vae", "Autoencoder"), ("transformer", "DiT")):
        _, params = load_part(trained / "model" / folder)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert any(line.startswith(f"  {folder}: {kind}, {count:,} parameters in ") for line in lines)
    statistics = [line for line in lines if line.startswith("    latents' ")]
    assert [line.split(":")[0].strip() for line in statistics] == [
        "latents' mean by channel",
        "latents' standard deviation by channel",
    ]


def test_inspect_what_isn_t_finished(trained, tmp_path, capfd):
    copy = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("model", "denoiser"))
    rows = [line for line in (copy / "metrics.jsonl").read_text().splitlines() if '"autoencoder"' in line]
    (copy / "metrics.jsonl").write_text("\n".join(rows[:5]) + '\n{"stage": "autoenc')
    assert run("inspect", [str(copy)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith("  autoencoder: step 5 of 8, loss ")
    assert lines[2] == "  denoiser: not started of 8"
    assert lines[-1] == "model: none yet; it is saved when training ends"


def test_inspect_models(trained, tmp_path, capfd):
    folder = pipelines.write("sd15", tmp_path / "sd")
    assert run("inspect", [str(folder)]) == 0
    out = capfd.readouterr().out
    assert "  class_name: StableDiffusionPipeline\n" in out and "  text_encoder: TextEncoder, " in out
    assert "    latents are multiplied by 0.18215\n" in out
    assert run("inspect", [str(trained / "model" / "vae"), "--tensors"]) == 0
    assert "    decoder/conv_in/kernel" in capfd.readouterr().out
    (tmp_path / "x.safetensors").write_text("nothing")
    for path, words in (
        (tmp_path / "nowhere", "path: "),
        (tmp_path, "holds no model_index.json or config.json"),
        (tmp_path / "x.safetensors", "x.safetensors"),
    ):
        assert words in refused([path], capfd, "inspect")
