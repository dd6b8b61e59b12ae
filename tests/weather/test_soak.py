"""A long run holds on to nothing: memory, files, threads and memory maps stay what they are."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_two_thousand_steps_and_a_hundred_checkpoints(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--out", str(tmp_path / "soak.json")]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["checkpoints"] == 100 and report["looks"] > 20
    for name, slack in (("memory, MiB", 0.1), ("open files", 0.1), ("threads", 0.1), ("memory maps", 0.1)):
        before, after = report[name]["second quarter"], report[name]["last quarter"]
        assert after <= before * (1 + slack) + 2, (name, before, after)
