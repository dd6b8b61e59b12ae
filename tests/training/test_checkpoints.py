import gc
import json
import logging
import shutil
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.errors import InputError
from ldm_jax.mesh import device_mesh
from ldm_jax.training import checkpoints
from ldm_jax.training.checkpoints import Checkpoints, fingerprints
from ldm_jax.training.parallel import make_strategy
from ldm_jax.training.step import TrainState


def state(step):
    params, ema = {"w": jnp.arange(4096.0) * step}, {"w": jnp.ones(4096) * step}
    return TrainState(jnp.asarray(step), params, ema, (jnp.zeros(64),), jnp.asarray(0))


def template(like, name="pmap"):
    shardings = make_strategy(name, lambda *a: a).shardings(like)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "stage"
    saved_ones = Checkpoints(folder)
    for step in (1, 2, 3):
        saved_ones.save(step, state(step))
    saved_ones.close()
    return folder


@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_the_newest_comes_back_whatever_the_strategy(saved, name):
    step, restored = Checkpoints(saved).restore(template(state(3), name))
    assert step == 3
    chex.assert_trees_all_equal(restored, state(3))
    assert sorted(p.name for p in saved.iterdir() if p.is_dir()) == ["2", "3"]


def test_small_arrays_of_many_devices_are_saved_without_a_program(tmp_path, caplog):
    """And hold what they held, whatever the next step makes of their memory."""
    replicated = NamedSharding(device_mesh(), PartitionSpec())
    # A size of its own: what another test compiled would not be compiled again.
    one = jax.device_put(state(1)._replace(ema={"w": jnp.ones(4104)}), replicated)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0, out_shardings=replicated)
    expected, made = jax.tree.map(np.array, one), Checkpoints(tmp_path)
    with jax.log_compiles():
        made.save(1, one)
        assert "Compiling" not in caplog.text
        jax.block_until_ready(step(step(one)))
        assert "Compiling" in caplog.text
    made.close()
    chex.assert_trees_all_equal(Checkpoints(tmp_path).restore(template(one))[1], expected)


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
    saved_ones = Checkpoints(copy)
    assert saved_ones.restore(template(state(3)))[0] == 2
    saved_ones.save(3, state(3))
    saved_ones.close()
    assert Checkpoints(copy).restore(template(state(3)))[0] == 3


def test_another_experiments_checkpoint_is_refused_and_stays(saved, tmp_path):
    """Neither damage nor a reason to begin at 0: one line, and the folder as it was."""
    copy = shutil.copytree(saved, tmp_path / "stage")
    other = state(3)._replace(params={"w": jnp.zeros(4095)})
    with pytest.raises(
        InputError, match=r"holds float32 \[4096\] at \.params\['w'\], this experiment has float32 \[4095\]"
    ):
        Checkpoints(copy).restore(template(other))
    more = state(3)._replace(opt_state=(jnp.zeros(64), jnp.zeros(3)))
    with pytest.raises(InputError, match="holds nothing at"):
        Checkpoints(copy).restore(template(more))
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3"]


def test_what_a_stage_builds_on_is_kept(tmp_path):
    saved_ones = Checkpoints(tmp_path / "stage", {"autoencoder": "a"})
    saved_ones.save(1, state(1))
    saved_ones.close()
    assert Checkpoints(tmp_path / "stage", {"autoencoder": "a"}).restore(template(state(1)))[0] == 1
    with pytest.raises(InputError, match="trained with another autoencoder than there is now"):
        Checkpoints(tmp_path / "stage", {"autoencoder": "b"}).restore(template(state(1)))


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    saved_ones = Checkpoints(tmp_path / "stage")
    for field in ("params", "ema"):
        broken = state(1)._replace(**{field: {"w": jnp.full(4096, jnp.nan)}})
        assert not saved_ones.save(1, broken)
    assert saved_ones.save(1, state(1))
    saved_ones.close()
    assert saved_ones.newest == 1


@given(st.integers(0, 4095), st.integers(0, 31))
@settings(deadline=None, max_examples=30)
def test_any_flipped_bit_changes_the_fingerprint(place, bit):
    array = np.arange(4096, dtype=np.float32)
    before, _ = fingerprints({"a": jnp.asarray(array)})
    array.view(np.uint32)[place] ^= np.uint32(1 << bit)
    assert fingerprints({"a": jnp.asarray(array)})[0] != before


def test_a_fingerprint_does_not_depend_on_where_an_array_lies(monkeypatch):
    """On the host, on one device, on eight."""
    whole = {"w": jnp.arange(64.0).reshape(8, 8), "n": jnp.arange(8, dtype=jnp.int32), "h": jnp.ones(16, jnp.bfloat16)}
    split = NamedSharding(device_mesh(), PartitionSpec("data"))
    placed = jax.tree.map(lambda x: jax.device_put(x, split), whole)
    assert not placed["w"].sharding.is_fully_replicated
    whole |= {"scalar": jnp.asarray(-3.5), "flag": jnp.asarray([True, False] * 4), "key": jax.random.key(3)}
    placed |= {name: whole[name] for name in ("scalar", "flag", "key")}
    on_host = fingerprints(whole)
    monkeypatch.setattr(checkpoints, "SMALL", 0)
    assert fingerprints(placed) == fingerprints(whole) == on_host


def test_a_state_without_averages_is_stored_as_before_there_were_any(saved):
    """Checkpoints of earlier versions have these fields, and are not taken for damaged."""
    names = json.loads((saved / "3" / "state" / "_METADATA").read_text())["tree_metadata"]
    fields = {path.strip("()'").split("'")[0] for path in names}
    assert fields == {"step", "params", "ema", "opt_state", "skipped"}


def test_averages_come_back(tmp_path):
    made, one = Checkpoints(tmp_path), state(1)._replace(averages=({"w": jnp.full(8, 3.0)}, {"w": jnp.full(8, 4.0)}))
    made.save(1, one)
    made.close()
    chex.assert_trees_all_equal(Checkpoints(tmp_path).restore(template(one))[1], one)
