import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.data import Example, Loader, open_source, order, prepare, to_float
from ldm_jax.data.arrays import ArraySource
from ldm_jax.errors import InputError

N, SIDE = 23, 4
IMAGES = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 1), dtype=np.uint8)
SOURCE = ArraySource(IMAGES, np.arange(N) % 3, tuple(f"number {i}" for i in range(N)), ("a", "b", "c"))


def load(**changes) -> Loader:
    settings = {"batch_size": 6, "image_size": SIDE, "channels": 1, "seed": 0, "flip": True, "threads": 2}
    return Loader(changes.pop("source", SOURCE), **{**settings, **changes})


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


@pytest.mark.parametrize("memory_limit", [2**30, 0])
@pytest.mark.parametrize("flip", [True, False])
def test_batch_is_what_its_fields_say(flip, memory_limit):
    loader = load(flip=flip, memory_limit=memory_limit)
    seen = []
    for k in range(8):
        batch = loader[k]
        assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
            "image": ((6, SIDE, SIDE, 1), "float32"),
            "label": ((6,), "int32"),
            "index": ((6,), "int32"),
            "example": ((6,), "int32"),
            "flipped": ((6,), "bool"),
        }
        images = to_float(IMAGES[batch["example"]])
        flipped = batch["flipped"]
        np.testing.assert_array_equal(batch["image"][~flipped], images[~flipped])
        np.testing.assert_array_equal(batch["image"][flipped], images[flipped, :, ::-1])
        np.testing.assert_array_equal(batch["label"], batch["example"] % 3)
        np.testing.assert_array_equal(batch["index"], np.arange(6))
        examples, coin = order(N, 6, 0, k)
        np.testing.assert_array_equal(batch["example"], examples)
        np.testing.assert_array_equal(flipped, coin & flip)
        assert loader.captions(k) == [f"number {i}" for i in examples]
        seen.extend(batch["example"].tolist())
    assert sorted(seen[:N]) == list(range(N))
    assert sorted(seen[N : 2 * N]) == list(range(N))


@settings(max_examples=30)
@given(steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=5), batch_size=st.integers(1, 50))
def test_batch_does_not_depend_on_what_was_read_before(steps, batch_size):
    used = load(batch_size=batch_size)
    for step in steps:
        assert_same(used[step], load(batch_size=batch_size, memory_limit=0)[step])


@settings(max_examples=30)
@given(step=st.integers(0, 1000), processes=st.integers(1, 5), per_process=st.integers(1, 5))
def test_processes_share_one_global_batch(step, processes, per_process):
    batch_size = processes * per_process
    parts = [load(batch_size=batch_size, process_index=p, process_count=processes)[step] for p in range(processes)]
    whole = load(batch_size=batch_size)[step]
    assert_same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_iterate_gives_the_same_batches_from_any_step(memory_limit):
    loader = load(memory_limit=memory_limit)
    got = list(load(memory_limit=memory_limit).iterate(5, 12))
    assert [k for k, _ in got] == list(range(5, 12))
    for k, batch in got:
        assert_same(batch, loader[k])
    assert list(loader.iterate(5, 5)) == []


def test_iterate_prepares_ahead_and_stops_its_threads_when_abandoned():
    # Other tests' threads may end meanwhile, so the loader's own are told apart.
    before = set(threading.enumerate())
    endless = load().iterate(3)
    assert next(endless)[0] == 3
    started = set(threading.enumerate()) - before
    assert started
    endless.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_errors_in_the_background_come_out():
    class Broken:
        class_names = ()

        def __len__(self):
            return 3

        def __getitem__(self, index) -> Example:
            raise InputError("data.source: image 2 is gone")

    with pytest.raises(InputError, match="image 2 is gone"):
        next(load(source=Broken()).iterate())


@pytest.mark.parametrize("batch_size", [1, 5, N, 50])
@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_in_order_covers_everything_once_and_pads_with_the_last(batch_size, memory_limit):
    images, expected = [], 0
    for start, batch, valid in load(memory_limit=memory_limit).in_order(batch_size):
        assert start == expected
        assert batch.shape == (batch_size, SIDE, SIDE, 1)
        np.testing.assert_array_equal(batch[valid:], np.broadcast_to(batch[valid - 1], batch[valid:].shape))
        images.append(batch[:valid])
        expected += valid
    np.testing.assert_array_equal(np.concatenate(images), to_float(IMAGES))


def test_labels_are_those_of_the_source():
    np.testing.assert_array_equal(load().labels, np.arange(N) % 3)
    assert load(source=ArraySource(IMAGES)).labels.tolist() == [-1] * N
    assert set(load(source=ArraySource(IMAGES))[0]["label"]) == {-1}
    assert load(source=ArraySource(IMAGES)).captions(0) == [""] * 6


def test_of_several_captions_one_is_drawn_anew_each_epoch():
    texts = [tuple(f"{i}{letter}" for letter in "abc"[: i % 4]) for i in range(N)]
    loader = load(source=ArraySource(IMAGES, None, texts), batch_size=N)
    drawn: list[set[str]] = [set() for _ in range(N)]
    for epoch in range(30):
        examples = loader[epoch]["example"].tolist()
        assert loader.captions(epoch) == loader.captions(epoch)
        for i, text in zip(examples, loader.captions(epoch), strict=True):
            assert text in texts[i] or not texts[i]
            drawn[i].add(text)
    # Of 30 draws from three none is missing but with a chance of 3 (2/3)^30.
    assert [len(found) for found in drawn] == [max(len(own), 1) for own in texts]
    first, second = (
        load(source=loader.source, batch_size=8, process_index=p, process_count=2).captions(3) for p in (0, 1)
    )
    assert first + second == load(source=loader.source, batch_size=8).captions(3)


def test_images_are_prepared_once_where_they_fit():
    class Counting(ArraySource):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    source = Counting(IMAGES)
    loader = load(source=source, image_size=8, channels=3)
    for k in range(20):
        loader[k]
    assert Counting.reads == N
    example = loader[3]["example"][0]
    flip = slice(None, None, -1 if loader[3]["flipped"][0] else 1)
    np.testing.assert_array_equal(loader[3]["image"][0], to_float(prepare(IMAGES[example], 8, 3))[:, flip])


def test_a_batch_goes_through_jit():
    out = jax.jit(lambda batch: batch["image"].mean() + batch["label"].max().astype("float32"))(load()[0])
    assert np.isfinite(out)


def test_batches_from_memory_are_fast():
    loader = Loader(open_source("bundled:fashion_mnist", "test"), batch_size=64, image_size=32, channels=1, seed=0)
    for _ in loader.in_order(500):
        pass
    times = []
    for k in range(50):
        start = time.perf_counter()
        loader[k]
        times.append(time.perf_counter() - start)
    # 0.2 ms on an idle core; the shape checks of the tests and a busy machine add to that.
    assert np.median(times) < 0.005


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 0}, "data.batch_size: 0"),
        ({"batch_size": 7, "process_count": 2}, "data.batch_size: 7; accepted: a positive multiple"),
        ({"channels": 2}, "data.channels: 2; accepted: 1 .* or 3"),
        ({"image_size": 0}, "data.image_size: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"source": ArraySource(IMAGES[:0])}, "no examples"),
    ],
)
def test_bad_settings_are_one_line(changes, match):
    with pytest.raises(InputError, match=match) as error:
        load(**changes)
    assert "\n" not in str(error.value)


def test_negative_steps_are_refused():
    with pytest.raises(IndexError, match="negative"):
        load()[-1]
