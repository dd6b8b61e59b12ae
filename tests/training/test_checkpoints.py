import gc
import logging
import shutil
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from ldm_jax.training.checkpoints import Checkpoints
from ldm_jax.training.parallel import make_strategy
from ldm_jax.training.step import TrainState


def state(step):
    return TrainState(
        jnp.asarray(step), {"w": jnp.arange(4096.0) * step}, {"w": jnp.ones(4096) * step}, (jnp.zeros(64),)
    )


def template(like, name="pmap"):
    shardings = make_strategy(name, lambda *a: a).shardings(like)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "stage"
    checkpoints = Checkpoints(folder)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.close()
    return folder


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_the_newest_comes_back_whatever_the_strategy(saved, name):
    step, restored = Checkpoints(saved).restore(template(state(3), name))
    assert step == 3
    chex.assert_trees_all_equal(restored, state(3))
    assert sorted(p.name for p in saved.iterdir() if p.is_dir()) == ["2", "3"]


def test_nothing_there_is_none(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(template(state(0))) is None


def files_of(saved):
    return [p.relative_to(saved) for p in sorted((saved / "3").rglob("*")) if p.is_file() and p.stat().st_size > 100]


@pytest.fixture
def _unretrieved(monkeypatch):
    """Orbax reads arrays side by side; when one read fails, nobody retrieves the others' failures."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    yield
    gc.collect()


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.usefixtures("_unretrieved")
@pytest.mark.parametrize("damage", [half, flipped])
def test_any_damaged_file_is_survived(damage, saved, tmp_path, caplog):
    """Whatever file is cut short or changed, a whole state comes back: this step's, or the one before and it's said."""
    fell_back = 0
    for i, name in enumerate(files_of(saved)):
        copy = shutil.copytree(saved, tmp_path / str(i) / "stage")
        (copy / name).write_bytes(damage((copy / name).read_bytes()))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ldm_jax"):
            step, restored = Checkpoints(copy).restore(template(state(3)))
        chex.assert_trees_all_equal(restored, state(step))
        if step == 2:
            fell_back += 1
            assert "is damaged" in caplog.text
            assert (copy.parent / "stage-damaged-3").is_dir()
    assert fell_back >= 2


@pytest.mark.usefixtures("_unretrieved")
def test_a_step_can_be_saved_again_after_its_checkpoint_was_damaged(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "stage")
    for path in (copy / "3").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    checkpoints = Checkpoints(copy)
    assert checkpoints.restore(template(state(3)))[0] == 2
    checkpoints.save(3, state(3))
    checkpoints.close()
    assert Checkpoints(copy).restore(template(state(3)))[0] == 3
