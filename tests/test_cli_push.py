"""push: what goes to the Hub, the card, and what never does; the Hub is a stand-in, without a network."""

import json
import shutil
import sys

import pytest

from ldm_jax.cli import main
from ldm_jax.evaluation.subjects import hash_weights
from ldm_jax.pretrained import hub


class Hub:
    """What was asked of the Hub."""

    def __init__(self, error=None):
        self.asked, self.error = [], error

    def create_repo(self, name, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        self.asked.append(("create", name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns):
        sent = {str(p.relative_to(folder_path)) for pattern in allow_patterns for p in folder_path.glob(pattern)}
        self.asked.append(("upload", repo_id, sent))


@pytest.fixture
def finished(trained, tmp_path):
    """A finished run of one's own, with something in its model's folder that is nobody else's."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained / "config.json", run)
    shutil.copytree(trained / "model", run / "model")
    (run / "model" / "notes.bin").write_text("mine")
    return run


@pytest.fixture
def there(monkeypatch):
    stand_in = Hub()
    monkeypatch.setattr(hub, "api", lambda: stand_in)
    return stand_in


def report_of(run, tmp_path, **changes):
    subject = {"kind": "model", "path": "/home/me/secret/run", "weights_hash": hash_weights(run)} | changes
    protocol = {
        "subject": subject,
        "num_samples": 50000,
        "guidance": 1.5,
        "reference": {"spec": "folder:/home/me/secret/birds", "split": "test"},
    }
    path = tmp_path / "report.json"
    metrics = {"FD-EffNet": 12.345678, "recall": None}
    path.write_text(json.dumps({"protocol": protocol, "metrics": metrics, "notes": ["few samples"]}))
    return path


def test_the_model_and_nothing_else(finished, there, tmp_path, capsys):
    report = report_of(finished, tmp_path)
    command = ["push", str(finished), "me/birds", "--report", str(report), "--license", "mit", "--private"]
    assert main(command) == 0
    parts = {
        f"{part}/{name}"
        for part in ("vae", "transformer")
        for name in ("config.json", "diffusion_pytorch_model.safetensors")
    }
    assert there.asked == [
        ("create", "me/birds", True, True),
        ("upload", "me/birds", {"model_index.json", "README.md", *parts}),
    ]
    assert capsys.readouterr().out.endswith("sent: https://huggingface.co/me/birds\n")
    card = (finished / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ldm_jax\n") and 'license: "mit"\n' in card
    for told in ('ldm_jax.load("hf:me/birds")', "transformer: DiT", "| denoiser |", "| FD-EffNet | 12.35 |", "50000"):
        assert told in card
    assert "| recall | not finite |" in card and "- few samples" in card
    assert "secret" not in card and '"spec": "folder:birds"' in card and '"path": "me/birds"' in card


def test_a_card_that_is_there_is_kept(finished, there, tmp_path, capsys):
    card = finished / "model" / "README.md"
    card.write_text("# My birds\n")
    assert main(["push", str(finished / "model"), "me/birds", "--license", "mit"]) == 2
    assert "is there already" in capsys.readouterr().err and not there.asked
    assert main(["push", str(finished / "model"), "me/birds"]) == 0
    assert card.read_text() == "# My birds\n"


def test_a_dry_run_sends_nothing(finished, there, capsys):
    assert main(["push", str(finished), "me/birds", "--dry-run"]) == 0
    assert not there.asked and (finished / "model" / "README.md").is_file()
    assert "model_index.json" in capsys.readouterr().out


def test_wrong_input_is_one_line(finished, there, tmp_path, monkeypatch, capsys):
    other = report_of(finished, tmp_path, weights_hash="0" * 64)
    broken = tmp_path / "none.json"
    broken.write_text("{}")
    for arguments, message in (
        ([str(tmp_path), "me/birds"], "holds no model_index.json"),
        ([str(finished), "birds"], "must have the form hf:ORG/NAME"),
        ([str(finished), "me/birds@main"], "without a revision"),
        ([str(finished), "me/birds", "--report", str(other)], "is about other weights"),
        ([str(finished), "me/birds", "--report", str(broken)], "is none of evaluate's"),
    ):
        assert main(["push", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not there.asked and not (finished / "model" / "README.md").exists()
    there.error = ConnectionError("no route\nto host")
    assert main(["push", str(finished), "me/birds"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "push: error: hub: me/birds can't be written (ConnectionError: no route to host)"


def test_without_a_token_or_the_library(finished, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["push", str(finished), "me/birds"]) == 2
    assert "hub: there is no token" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["push", str(finished), "me/birds"]) == 2
    assert 'pip install "ldm-jax[hub]"' in capsys.readouterr().err
