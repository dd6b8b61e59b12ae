import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax.errors import InputError
from ldm_jax.metrics import (
    Wanted,
    collect,
    frechet_distance,
    merge,
    moments,
    pixels,
    read_statistics,
    sharded,
    write_statistics,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 10**6), st.floats(-1e4, 1e4))
def test_moments_of_parts_merge_into_those_of_the_whole(sizes, seed, offset):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, 4)) * [1, 10, 0.1, 3] + offset for n in sizes]
    whole = np.concatenate([*parts, parts[0][:1] + 1])
    total = moments(whole[-1:])
    for part in parts:
        total = merge(total, moments(part))
    assert total.count == len(whole)
    np.testing.assert_allclose(total.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    covariance = np.cov(whole, rowvar=False)
    np.testing.assert_allclose(total.gaussian.covariance, covariance, rtol=1e-9, atol=1e-9 * np.abs(covariance).max())


def test_float64_holds_what_float32_would_lose():
    # A mean 10^4 standard deviations from 0: E[x^2] - E[x]^2 in float32 has no digit left.
    x = (np.random.default_rng(0).normal(size=(1000, 2)) * 0.01 + 100).astype(np.float32)
    total = moments(x[:1])
    for i in range(1, 1000, 37):
        total = merge(total, moments(x[i : i + 37]))
    np.testing.assert_allclose(total.gaussian.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


@pytest.fixture(scope="module")
def network():
    """A network as evaluation sees one: uint8 images to named features."""
    # Small enough that a float32 matrix product of 75 rows and one of 2 agree to 1e-6 on every version of JAX.
    w = 0.1 * jax.random.normal(jax.random.key(0), (6 * 6 * 3, 10))

    @jax.jit
    def extract(images):
        x = images.reshape(len(images), -1).astype(jnp.float32) / 255.0
        return {"pool": jnp.tanh(x @ w), "spatial": x[:, :7]}

    return extract


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (75, 6, 6, 3)).astype(np.uint8)


def test_statistics_from_eight_devices_equal_those_from_one(network, images):
    wanted = {"net": Wanted(moments=frozenset({"pool", "spatial"}), arrays=frozenset({"pool"}))}
    found = {}
    for count in (1, 8):
        seen = []

        def watched(x, seen=seen):
            seen.append((x.shape, len(x.sharding.device_set), x.addressable_shards[0].data.shape[0]))
            return network(x)

        extract = sharded(watched, 16, jax.devices()[:count])
        batches = [images[i : i + 16] for i in range(0, 75, 16)]
        found[count] = collect(batches, {"net": extract}, wanted)["net"]
        assert set(seen) == {((16, 6, 6, 3), count, 16 // count)}
    one, eight = found[1], found[8]
    for layer in ("pool", "spatial"):
        assert one.moments[layer].count == eight.moments[layer].count == 75
        assert frechet_distance(one.moments[layer].gaussian, eight.moments[layer].gaussian) < 1e-6
        np.testing.assert_allclose(one.moments[layer].mean, eight.moments[layer].mean, rtol=1e-6)
        np.testing.assert_allclose(one.moments[layer].scatter, eight.moments[layer].scatter, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.arrays["pool"], eight.arrays["pool"], atol=1e-6)
    whole = network(images)
    np.testing.assert_allclose(eight.arrays["pool"], whole["pool"], atol=1e-6)
    direct = moments(np.asarray(whole["pool"]))
    np.testing.assert_allclose(eight.moments["pool"].gaussian.covariance, direct.gaussian.covariance, atol=1e-6)


def test_features_that_are_not_numbers(images):
    bad = {"net": lambda x: {"pool": np.full((len(x), 2), np.nan)}}
    for want in (Wanted(moments=frozenset({"pool"})), Wanted(arrays=frozenset({"pool"}))):
        with pytest.raises(InputError, match="NaN"):
            collect([images], bad, {"net": want})
    with pytest.raises(InputError, match="net has no output 'logits'; it has pool"):
        collect([images], bad, {"net": Wanted(arrays=frozenset({"logits"}))})


def test_pixels_are_means_of_squares(images):
    np.testing.assert_allclose(pixels()(images)["pool"], images.reshape(75, -1) / np.float32(255))
    half = pixels(side=3)(images)["pool"].reshape(75, 3, 3, 3)
    np.testing.assert_allclose(half[:, 1, 2], images[:, 2:4, 4:6].mean(axis=(1, 2)) / 255, rtol=1e-6)


def test_adm_reference_files_go_both_ways(tmp_path, images):
    rng = np.random.default_rng(0)
    pool, spatial = (moments(rng.normal(size=(30, d))).gaussian for d in (5, 3))
    path = tmp_path / "reference.npz"
    write_statistics(path, {"pool": pool, "spatial": spatial}, images=images, notes={"features": "inception"})
    with np.load(path) as file:
        # The names and types that ADM's evaluator reads.
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= set(file.files)
        assert file["mu"].dtype == np.float64 and file["sigma_s"].shape == (3, 3)
        np.testing.assert_array_equal(file["arr_0"], images)
    statistics, notes = read_statistics(path)
    assert notes == {"features": "inception"}
    np.testing.assert_array_equal(statistics["pool"].mean, pool.mean)
    np.testing.assert_array_equal(statistics["spatial"].covariance, spatial.covariance)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 4))}, r"shapes \(3,\) and \(3, 4\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN"),
        ({"mu": np.array([{}], object), "sigma": np.eye(1)}, "mu of .* can't be read"),
    ],
)
def test_damaged_references(arrays, words, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_statistics(tmp_path / "bad.npz")


def test_references_that_are_none(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match=r"is not an \.npz"):
        read_statistics(tmp_path / "text.npz")
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    assert read_statistics(tmp_path / "images.npz") == ({}, {})


def test_statistics_that_don_t_fit():
    a, b = (moments(np.random.default_rng(0).normal(size=(9, d))).gaussian for d in (4, 6))
    with pytest.raises(InputError, match="of 6 features and the samples' of 4"):
        frechet_distance(a, b)
    with pytest.raises(InputError, match="at least 2 are needed"):
        _ = moments(np.zeros((1, 3))).gaussian
