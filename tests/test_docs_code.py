"""What README and docs/ show works as printed: every block of Python runs, every command's options exist.

docs/data.md, whose blocks make files, has a test of its own: tests/data/test_layouts.py.
"""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.cli import COMMANDS, main, parsing
from ldm_jax.cli.parsing import parse_config
from ldm_jax.configfile import load_config
from ldm_jax.models import Conditioning
from tests.pipeline import pipelines

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks(page):
    return PYTHON.findall((ROOT / page).read_text())


COMMAND = re.compile(r"(?:python )?(train|sample|evaluate)\.py\b|(?:ldm-jax|python -m ldm_jax) ([a-z]+)\b")
WITH_PYTHON = [page for page in PAGES if blocks(page) and page != "docs/data.md"]


def readme(room, trained, rng):
    (room / "runs").mkdir()
    (room / "runs" / "quickstart").symlink_to(trained)
    return {"x": jnp.asarray(rng.uniform(-1, 1, (2, 32, 32, 1)), jnp.float32)}


def contributing(room, trained, rng):
    from ldm_jax.training import optimizers

    return vars(optimizers)


def evaluation(room, trained, rng):
    a, b = rng.normal(size=(2, 40, 8))
    x, y = jnp.asarray(rng.uniform(-1, 1, (2, 3, 32, 32, 1)), jnp.float32)
    return {"a": a, "b": b, "x": x, "y": y}


def features(room, trained, rng):
    """Its second half needs Inception's weights, which may not come with the tests: random ones have their names."""
    from ldm_jax.pretrained import features

    x, y = jnp.asarray(rng.uniform(-1, 1, (2, 1, 64, 64, 3)), jnp.float32)
    seen = {}

    class Space:
        weights_hash = "of the file"

        def extract(self, images):
            seen["images"] = images
            return {"pool": np.zeros((len(images), 2048))}

    return {
        "x": x,
        "y": y,
        "images": np.zeros((2, 40, 40, 3), np.uint8),
        "__absent__": (features, "open_features", Space),
    }


def samplers(room, trained, rng):
    config = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    (room / "scheduler_config.json").write_text(json.dumps({**config, "num_train_timesteps": 1000}))

    def network(params, z, timestep, cond=None):
        return params * z

    noise, key = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32), jax.random.key(0)
    none = Conditioning()
    return {"network": network, "params": jnp.float32(0.1), "cond": none, "null": none, "noise": noise, "key": key}


def weights(room, trained, rng):
    pipelines.write("sd15", room / "stable-diffusion-v1-5")
    z = jnp.asarray(rng.normal(size=(1, 8, 8, 4)), jnp.float32)
    config = json.loads((room / "stable-diffusion-v1-5" / "unet" / "config.json").read_text())
    context = jnp.zeros((1, 7, config["cross_attention_dim"]))
    return {"z": z, "t": jnp.full(1, 500.0), "cond": Conditioning(context=context)}


GIVEN = {
    "README.md": readme,
    "CONTRIBUTING.md": contributing,
    "docs/evaluation.md": evaluation,
    "docs/features.md": features,
    "docs/samplers.md": samplers,
    "docs/weights.md": weights,
}
"""What a page takes as given: names that its blocks use, files that they read."""


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_blocks_of_python_run_one_after_the_other(page, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = GIVEN.get(page, lambda *_: {})(tmp_path, trained, np.random.default_rng(0))
    namespace = dict(given)
    if absent := namespace.pop("__absent__", None):
        module, name, stand_in = absent
        monkeypatch.setattr(module, name, lambda *args: stand_in())
    for i, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, block {i}", "exec"), namespace)


def commands(page):
    """The commands of a page, in blocks (their continued lines joined) and within sentences: (name, rest)."""
    text = (ROOT / page).read_text()
    fenced = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in prose.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        for part in line.split("  #")[0].split(" && "):
            if match := COMMAND.match(part.strip().removeprefix("$ ")):
                yield match[1] or match[2], part.strip().removeprefix("$ ")[match.end() :]


ALL = [(page, name, rest) for page in PAGES for name, rest in commands(page)]
"""Page, command, the rest of its line."""


@pytest.fixture(scope="module")
def helps():
    """The help of each command; train's with the fields of an experiment."""
    texts = {}

    def of(name):
        if name not in texts:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                main([name, *(["quickstart"] if name in ("train", "plan") else []), "--help"])
            texts[name] = out.getvalue()
        return texts[name]

    return of


SHORT = re.findall(r"--[a-z-]+", " ".join(parsing.SHORT))


def fields(words):
    """The options of an experiment's fields among a command's words, each with its values."""
    taken, keep = [], False
    for word in words:
        keep = ("." in word or word in SHORT) if word.startswith("--") else keep
        taken += [word] if keep else []
    return taken


@pytest.mark.parametrize("page", sorted({page for page, _, _ in ALL}))
def test_commands_and_their_options_exist(page, helps, monkeypatch):
    monkeypatch.chdir(ROOT)
    for _, name, rest in [row for row in ALL if row[0] == page]:
        assert name in COMMANDS
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", rest):
            assert "." in option or option in helps(name), f"{page}: {name} {rest.strip()}: {option}"
        words = shlex.split(rest.split("[")[0])
        if name == "train" and words and words[0].startswith("configs/"):
            # PATH and the like stand for what the reader has.
            given = [re.sub(r"^[A-Z]+$", "64", word) for word in fields(words[1:])]
            parse_config(given, load_config(words[0]))
