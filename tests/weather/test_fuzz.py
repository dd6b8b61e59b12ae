"""Anything at all as config, command line, picture or npz: InputError (exit code 2) or success, and nothing written.

The default run takes a few examples of each; `pytest -m slow -n 0 tests/weather/test_fuzz.py` takes many.
"""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm_jax.cli import run
from ldm_jax.config import Config
from ldm_jax.configfile import check_numbers, load_config
from ldm_jax.data import open_source
from ldm_jax.errors import InputError
from tests.conftest import ROOT

BUDGETS = [40, pytest.param(2000, marks=pytest.mark.slow)]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=8), st.just("denoiser")
)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3))


def fuzz(budget, test, *strategies):
    """Runs `test` on `budget` examples, the same in every run."""
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    settings(max_examples=budget, deadline=None, derandomize=True, suppress_health_check=quiet, database=None)(
        given(*strategies)(test)
    )()


def one_line(error):
    """That what is refused is refused in one line."""
    assert "\n" not in str(error), error


def places(tree, path=()):
    """The paths of everything in a JSON tree."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [place for name, value in items for place in places(value, (*path, name))]


GOOD = json.loads(load_config(ROOT / "configs" / "quickstart.py").to_json())


@st.composite
def configs(draw):
    """The quickstart's JSON with some of its values, or fields, replaced or gone."""
    tree = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(tree)))
        inner = tree
        for name in way:
            inner = inner[name]
        if draw(st.booleans()) or isinstance(inner, list):
            inner[last] = draw(VALUES)
        else:
            inner.pop(last)
    return json.dumps(tree)


@pytest.mark.parametrize("budget", BUDGETS)
def test_configs(budget):
    def check(text):
        try:
            config = Config.from_json(text)
            check_numbers(config)
        except InputError as error:
            one_line(error)
            return
        assert Config.from_json(config.to_json()) == config

    fuzz(budget, check, configs() | st.text(max_size=40) | VALUES.map(json.dumps))


OPTIONS = [
    *("--workdir", "--stage", "--data.source", "--data.image-size", "--data.batch-size", "--seed", "--sampling.steps"),
    *("--stages.denoiser.steps", "--denoiser.depth", "--process.schedule", "--conditions", "--stages", "--parallel"),
]
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("budget", BUDGETS)
def test_command_lines(budget, tmp_path, monkeypatch):
    """All end in 2, as a field that doesn't exist is among them."""
    monkeypatch.chdir(tmp_path)

    def check(words):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = run("train", [str(ROOT / "configs" / "quickstart.py"), *words, "--no-such.field", "1"])
        assert code == 2 and err.getvalue().count("\n") == 1, (words, err.getvalue())
        assert not list(tmp_path.iterdir())

    fuzz(budget, check, st.lists(st.sampled_from(OPTIONS) | WORDS.filter(lambda w: w not in ("-h", "--")), max_size=6))


def damaged(whole):
    """Bytes of a file that is cut short, or has some bytes changed."""

    def change(data, edits, end):
        changed = bytearray(data)
        for place, value in edits:
            changed[place % len(changed)] = value
        return bytes(changed[: end % (len(changed) + 1)])

    edits = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=6)
    return st.builds(change, whole, edits, st.integers(0, 2**20)) | st.binary(max_size=200)


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("budget", BUDGETS)
def test_pictures(budget, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    good = [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]
    (tmp_path / "a").mkdir()

    def check(data, ending):
        (tmp_path / "a" / f"0.{ending}").write_bytes(data)
        try:
            source = open_source(f"folder:{tmp_path / 'a'}", "train")
            assert source[0].image.dtype == np.uint8
        except InputError as error:
            one_line(error)
        (tmp_path / "a" / f"0.{ending}").unlink()

    with pytest.MonkeyPatch.context() as patch:
        # Pillow warns of what is odd in a file, and tests take warnings for errors.
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        fuzz(budget, check, damaged(st.sampled_from(good)), st.sampled_from(["png", "jpg", "gif"]))


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("budget", BUDGETS)
def test_arrays(budget, tmp_path):
    pixels = np.zeros((4, 2, 2, 1), np.uint8)
    kinds = [np.arange(4), np.ones((4, 2)), np.array(["a", "b", "", "a"]), np.array(3), np.array([None] * 4), pixels]
    kinds += [np.zeros((0, 2, 2, 1), np.uint8), np.full((4, 3, 2), np.nan, np.float32), np.arange(4) - 9]
    names = ["images", "arr_0", "labels", "label", "captions", "class_names", "signals", "x"]
    some = st.dictionaries(st.sampled_from(names), st.sampled_from(kinds), max_size=4)
    good = [archive(images=pixels, labels=np.arange(4)), archive(signals=np.zeros((4, 3, 1), np.float32))]

    def check(data):
        (tmp_path / "x.npz").write_bytes(data)
        try:
            source = open_source(f"npz:{tmp_path / 'x.npz'}", "train")
            assert len(source) > 0
        except InputError as error:
            one_line(error)

    fuzz(budget, check, some.map(lambda arrays: archive(**arrays)) | damaged(st.sampled_from(good)))
