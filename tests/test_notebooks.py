"""The notebooks run from top to bottom, at reduced size, in processes of their own."""

import os
import re
import subprocess
import sys

import nbformat
import pytest

from tests.conftest import QUICK, ROOT, own_cache
from tests.pipeline import pipelines

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


PICTURES = {
    "quickstart": 5,
    "step_by_step": 10,
    "own_images": 6,
    "text_to_image": 6,
    "uses": 8,
    "published_weights": 4,
    "evaluation": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    settings = next(cell for cell in notebook.cells if "SMOKE = False" in cell.source)
    settings.source = settings.source.replace("SMOKE = False", "SMOKE = True")
    settings.source = re.sub(r'WORKDIR = ".*"', f'WORKDIR = "{tmp_path / "run"}"', settings.source)
    if "MODEL = " in settings.source:
        pipelines.write("sd15", tmp_path / "sd15")
        settings.source = re.sub(r'MODEL = ".*"', f'MODEL = "{tmp_path / "sd15"}"', settings.source)
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)

    env = os.environ | {
        "XLA_FLAGS": QUICK,
        **own_cache("notebooks"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", EXECUTE, str(copy), str(ROOT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = nbformat.read(copy, as_version=4).cells
    pictures = [o for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == PICTURES[path.stem]
