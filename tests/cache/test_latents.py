"""The cache of latents: what is in it, when it is trusted, and that devices and processes make no difference."""

import dataclasses
import json
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.cache import latents as module_under_test
from ldm_jax.cache import place_of
from ldm_jax.cache.latents import (
    NO_VARIANCE,
    Latents,
    describe,
    encode_all,
    encode_share,
    finish,
    moments_statistics,
    open_latents,
)
from ldm_jax.data import Loader
from ldm_jax.data.arrays import ArraySource
from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, AutoencoderConfig, VQAutoencoder, VQConfig, apply

N = 37
KL = Autoencoder(AutoencoderConfig(1, 2, 4, (1,), 1, 2, False, 2))
VQ = VQAutoencoder(VQConfig(1, 2, 4, (1,), 1, 2, False, 2, codebook_size=8))
IDENTITY = '{"source": "test", "limit": 0}'


class Source(ArraySource):
    """Noise; fails at example `fails`, as a process does that is killed there."""

    def __init__(self, seed=0, fails=None):
        rng = np.random.default_rng(seed)
        super().__init__(rng.integers(0, 256, (N, 8, 8, 1), np.uint8), rng.integers(0, 5, N))
        self.fails = fails

    def __getitem__(self, index):
        if index == self.fails:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def loader(source=None, batch_size=12, flip=True, **kwargs):
    return Loader(source or Source(), batch_size=batch_size, image_size=8, channels=1, seed=3, flip=flip, **kwargs)


@cache
def _init(module, seed):
    return jax.jit(module.init)(jax.random.key(seed), *module.example_inputs())["params"]


def params(module, seed=0):
    return _init(module, seed)


def encode(folder, module=KL, seed=0, data=None, identity=IDENTITY, **kwargs):
    kwargs = {"devices": jax.devices()[:1], **kwargs}
    return encode_all(folder, module, params(module, seed), data or loader(), identity, 16, **kwargs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "latents"
    return SimpleNamespace(folder=folder, latents=encode(folder))


@pytest.fixture
def copy(made, tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    for path in made.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_moments_are_the_encoders_and_statistics_are_of_posterior_samples(made):
    data = loader()
    _, images, _ = next(data.in_order(N))
    whole = jax.jit(lambda p, x: apply(KL, p, x, method="encode"))
    for view, x in enumerate([images, images[:, :, ::-1]]):
        mean, logvar = whole(params(KL), x)
        moments = np.asarray(made.latents.parts[0])
        np.testing.assert_allclose(moments[:, view], np.concatenate([mean, logvar], axis=-1), rtol=1e-5, atol=1e-6)
    mean, logvar = np.split(moments.reshape(-1, 4).astype(np.float64), 2, axis=1)
    np.testing.assert_allclose(made.latents.mean, mean.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(made.latents.std, np.sqrt(mean.var(axis=0) + np.exp(logvar).mean(axis=0)), rtol=1e-6)


def test_batches_follow_the_loaders_order(made):
    data, whole = loader(), np.asarray(made.latents.parts[0])
    for step in (0, 2, 7):
        wanted = data[step]
        got = made.latents.batch(place_of(N, 12, 3, step))
        rows = whole[wanted["example"], wanted["flipped"].astype(int)]
        np.testing.assert_array_equal(np.concatenate([got["mean"], got["logvar"]], axis=-1), rows)
        np.testing.assert_array_equal(got["index"], wanted["index"])
        places = [place_of(N, 12, 3, step, process_index=p, process_count=2) for p in range(2)]
        np.testing.assert_array_equal(np.concatenate([place.examples for place in places]), wanted["example"])
        whole_place = place_of(N, 12, 3, step)
        for name in ("flipped", "choice"):
            parts = [getattr(place, name) for place in places]
            np.testing.assert_array_equal(np.concatenate(parts), getattr(whole_place, name))
        halves = [made.latents.batch(place) for place in places]
        for name in got:
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), got[name])


def test_eight_devices_make_what_one_makes(made, tmp_path):
    eight = encode(tmp_path / "latents", devices=None)
    np.testing.assert_allclose(eight.parts[0], made.latents.parts[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([eight.mean, eight.std], [made.latents.mean, made.latents.std], rtol=1e-6)


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_make_what_one_makes_and_any_number_reads_it(made, tmp_path, processes):
    shares = [loader(batch_size=10, process_index=p, process_count=processes) for p in range(processes)]
    wanted = describe(KL, params(KL), shares[0], IDENTITY)
    (tmp_path / "moments-17.npy").write_bytes(b"left over")
    for share in reversed(shares):
        with pytest.raises(FileNotFoundError):
            open_latents(tmp_path, wanted)
        encode_share(tmp_path, KL, params(KL), share, 16, jax.devices()[:1])
    finish(tmp_path, KL, params(KL), shares[0], wanted)
    assert sorted(files(tmp_path)) == ["manifest.json", *(f"moments-{i}.npy" for i in range(processes))]
    # Read by one process: a run may go on with another number of them.
    together = encode(tmp_path)
    assert [len(part) for part in together.parts] == json.loads((tmp_path / "manifest.json").read_text())["parts"]
    np.testing.assert_array_equal(np.concatenate(together.parts), made.latents.parts[0])
    np.testing.assert_array_equal([together.mean, together.std], [made.latents.mean, made.latents.std])
    for name, value in made.latents.batch(place_of(N, 12, 0, 4)).items():
        np.testing.assert_array_equal(together.batch(place_of(N, 12, 0, 4))[name], value)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 12))
@settings(deadline=None)
def test_statistics_do_not_depend_on_the_parts(cuts, chunk):
    moments = np.random.default_rng(1).standard_normal((9, 1, 2, 2, 4)).astype(np.float32)
    parts = np.split(moments, sorted(cuts))
    np.testing.assert_array_equal(moments_statistics(parts, 2, chunk), moments_statistics([moments], 2, chunk))


def test_statistics_of_a_constant_channel(caplog):
    """And of one far from 0: a mean of squares less the squared mean gave NaN."""
    constant = np.full((300, 1, 4, 4, 2), 3.3, np.float32)
    constant[..., 0] = 1e4 + np.random.default_rng(0).standard_normal(constant.shape[:-1])
    mean, std = moments_statistics([constant], 2)
    assert "latent channel 1 is constant" in caplog.text and "channel 0" not in caplog.text
    np.testing.assert_allclose(mean, constant.reshape(-1, 2).mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, [constant[..., 0].std(dtype=np.float64), 1.0], rtol=1e-5)


def test_half_the_bytes_on_disk(made, tmp_path):
    half = encode(tmp_path, dtype="float16")
    assert half.parts[0].dtype == np.float16
    batch, whole = (latents.batch(place_of(N, 12, 3, 0)) for latents in (half, made.latents))
    assert batch["mean"].dtype == batch["logvar"].dtype == np.float32
    np.testing.assert_allclose(batch["mean"], whole["mean"], rtol=2e-3, atol=1e-3)
    with pytest.raises(InputError, match='made with dtype "float16"'):
        open_latents(tmp_path, describe(KL, params(KL), loader(), IDENTITY))


def test_encoders_without_variance(tmp_path):
    cached = encode(tmp_path, VQ, data=loader(flip=False))
    assert cached.parts[0].shape == (N, 1, 4, 4, 2)
    _, images, _ = next(loader().in_order(N))
    z = np.asarray(jax.jit(lambda p, x: apply(VQ, p, x, method="encode"))(params(VQ), images))
    np.testing.assert_allclose(cached.parts[0][:, 0], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cached.std, z.std(axis=(0, 1, 2), dtype=np.float64), rtol=1e-5)
    batch = cached.batch(place_of(N, 4, 0, 0))
    assert batch["mean"].shape == batch["logvar"].shape == (4, 4, 4, 2)
    assert (batch["logvar"] == NO_VARIANCE).all()


def test_a_whole_cache_is_not_encoded_again(made, monkeypatch):
    before = files(made.folder)
    monkeypatch.delattr(module_under_test, "encode_share")
    assert len(encode(made.folder)) == N
    assert files(made.folder) == before
    manifest = json.loads(before["manifest.json"])
    assert manifest["created_by"].startswith("ldm_jax")
    assert (manifest["count"], manifest["shape"], manifest["parts"]) == (N, [2, 4, 4, 4], [N])


OTHER = Autoencoder(dataclasses.replace(KL.config, dtype="bfloat16"))
CHANGES = {
    "weights": {"seed": 1},
    "autoencoder.dtype": {"module": OTHER},
    "transforms.flip": {"data": loader(flip=False)},
    "images": {"data": loader(Source(seed=1))},
    "data.limit": {"identity": '{"source": "test", "limit": 9}'},
}


@pytest.mark.parametrize("field", CHANGES)
def test_what_was_made_from_something_else_is_refused(field, made, copy, caplog):
    caplog.set_level("INFO", "ldm_jax")
    change = {"module": KL, "seed": 0, "data": loader(), "identity": IDENTITY, **CHANGES[field]}
    before = files(copy)
    weights = params(change["module"], change["seed"])
    with pytest.raises(InputError, match=f"was made with {field} .* now; remove it") as caught:
        open_latents(copy, describe(change["module"], weights, change["data"], change["identity"]))
    assert "\n" not in str(caught.value)
    if field in ("weights", "autoencoder.dtype"):
        # The autoencoder has been trained further: its latents follow it.
        again = encode(copy, **change)
        assert "encoding 37 images into latents" in caplog.text
        assert field in caplog.text
        assert np.abs(again.parts[0] - made.latents.parts[0]).max() > 1e-4
    else:
        with pytest.raises(InputError, match=f"made with {field}"):
            encode(copy, **change)
        assert files(copy) == before


def test_killed_in_the_middle_there_is_no_half_cache(copy):
    # New weights, so that the old cache is replaced; the images themselves are those of before.
    with pytest.raises(KeyboardInterrupt):
        encode(copy, seed=1, data=loader(Source(fails=30)))
    assert "manifest.json" not in files(copy)
    with pytest.raises(FileNotFoundError):
        open_latents(copy, describe(KL, params(KL), loader(), IDENTITY))
    again = encode(copy)
    assert len(again) == N
    assert sorted(files(copy)) == ["manifest.json", "moments.npy"]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("moments.npy", lambda data: data[: len(data) // 2]),
        ("moments.npy", lambda data: b""),
        ("moments.npy", lambda data: data[:-4]),
        ("manifest.json", lambda data: data[:-9]),
        ("manifest.json", lambda data: data.replace(b'"parts": [\n    37', b'"parts": [\n    36')),
        ("manifest.json", lambda data: b"[]"),
    ],
)
def test_damage_is_seen(copy, name, damage):
    data = files(copy)[name]
    assert damage(data) != data
    (copy / name).write_bytes(damage(data))
    with pytest.raises(InputError, match=r"damaged|not JSON|format null"):
        open_latents(copy, describe(KL, params(KL), loader(), IDENTITY))


def test_damage_is_mended_in_the_runs_own_folder(copy, made):
    (copy / "moments.npy").unlink()
    np.testing.assert_array_equal(encode(copy).parts[0], made.latents.parts[0])


def test_latents_that_are_not_finite_are_not_kept(tmp_path):
    broken = jax.tree.map(lambda x: x * np.nan, params(KL))
    with pytest.raises(FloatingPointError, match="NaN or infinity for image 0"):
        encode_all(tmp_path, KL, broken, loader(), IDENTITY, 16, jax.devices()[:1])
    assert not {"manifest.json", "moments.npy"} & set(files(tmp_path))


def test_the_progress_bar_is_for_terminals(tmp_path, monkeypatch, capsys):
    encode_share(tmp_path, KL, params(KL), loader(), 16, jax.devices()[:1])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    encode_share(tmp_path, KL, params(KL), loader(), 16, jax.devices()[:1])
    assert f"{N}/{N}" in capsys.readouterr().err


def test_one_array_of_moments_is_enough():
    moments = np.arange(24, dtype=np.float32).reshape(3, 1, 2, 1, 4)
    cached = Latents(moments, np.zeros(2, np.float32), np.ones(2, np.float32))
    place = place_of(3, 3, 0, 0)
    np.testing.assert_array_equal(cached.batch(place)["mean"], moments[place.examples, 0, ..., :2])
