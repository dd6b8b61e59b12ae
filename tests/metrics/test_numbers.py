"""Every metric with every type of number, odd shapes and single elements: right to rounding, or an InputError.

As users have them, without checks of annotations. Right is what the same numbers give in float64.
"""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_jax import metrics
from ldm_jax.errors import InputError
from tests.metrics.inputs import image_pairs

DTYPES = (np.uint8, np.float16, ml_dtypes.bfloat16, np.float32)


@pytest.fixture(autouse=True, scope="module")
def _as_users_have_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def gaussians(x, y):
    return metrics.frechet_distance(metrics.moments(x).gaussian, metrics.moments(y).gaussian)


def whole_and_parts(x, y):
    merged, every = metrics.merge(metrics.moments(x), metrics.moments(y)), metrics.moments(np.concatenate([x, y]))
    np.testing.assert_allclose(merged.scatter, every.scatter, atol=1e-6 * max(np.abs(every.scatter).max(), 1.0))
    return [merged.count, *merged.mean]


VECTORS = {
    "frechet_distance": gaussians,
    "merge": whole_and_parts,
    "kernel_distance": lambda x, y: metrics.kernel_distance(x, y, subsets=2, subset_size=2),
    "cmmd": metrics.cmmd,
    "nearest": lambda x, y: metrics.nearest(x, y).distance.ravel(),
    "precision_recall": lambda x, y: metrics.precision_recall(x, y, k=1),
    "density_coverage": lambda x, y: metrics.density_coverage(x, y, k=1),
    "memorization": lambda x, y: metrics.memorization(x, y, x),
    "inception_score": lambda x, y: metrics.inception_score(x, split_size=2),
    "vendi_score": lambda x, y: metrics.vendi_score(x),
}
PICTURES = {
    "psnr": lambda x, y: metrics.psnr(x, y, data_range=255),
    "ssim": lambda x, y: metrics.ssim(x, y, data_range=255, window="uniform"),
    "ms_ssim": lambda x, y: metrics.ms_ssim(x, y, data_range=255),
}
ELSEWHERE = {
    "to_uint8": "below",
    "pixels": "below",
    "moments": "by frechet_distance and merge",
    "collect": "test_command.py",
    "sharded": "below",
    "open_npz": "no array",
    "read_statistics": "test_statistics.py",
    "write_statistics": "test_statistics.py",
}


def test_no_metric_is_forgotten():
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert functions == {*VECTORS, *PICTURES, *ELSEWHERE}


def numbers(value):
    return np.asarray(value, np.float64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(VECTORS)), st.sampled_from(DTYPES), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_feature_vectors_of_any_type(name, dtype, n, d, zeros):
    rng = np.random.default_rng(n + 10 * d)
    x, y = (np.zeros((n, d), dtype) if zeros else (1 + 5 * rng.random((n, d))).astype(dtype) for _ in range(2))
    try:
        got = numbers(VECTORS[name](x, y))
    except InputError:
        # Too few vectors for this metric, or a direction is asked of zeros.
        assert zeros or n < 3, name
        return
    assert np.isfinite(got).all()
    want = numbers(VECTORS[name](x.astype(np.float64), y.astype(np.float64)))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["psnr", "ssim"]),
    st.sampled_from(DTYPES),
    st.sampled_from([(1, 1, 1, 1), (2, 9, 7, 3)]),
)
def test_pictures_of_any_type(name, dtype, shape):
    x, y = (a.astype(dtype) for a in image_pairs(shape))
    if name == "ssim" and min(shape[1:3]) < 7:
        with pytest.raises(InputError, match="its uniform window is 7x7"):
            PICTURES[name](x, y)
        return
    got = numbers(PICTURES[name](x, y))
    x, y = x.astype(np.float64), y.astype(np.float64)
    if name == "psnr":
        want = 10 * np.log10(255**2 / np.maximum(((x - y) ** 2).mean(axis=(1, 2, 3)), 1e-300))
        want = np.where(want > 1000, np.inf, want)
    else:
        want = numbers(PICTURES[name](x.astype(np.float32), y.astype(np.float32)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_grey_levels_do_not_wrap():
    x = np.full((1, 8, 8, 1), 10, np.uint8)
    assert float(metrics.psnr(x, x + 20, data_range=255)[0]) == pytest.approx(20 * np.log10(255 / 20), rel=1e-6)
    for dtype in DTYPES:
        # Computed in float32; to run it costs a compilation for each of five scales.
        like = jax.ShapeDtypeStruct((1, 161, 161, 1), dtype)
        assert jax.eval_shape(PICTURES["ms_ssim"], like, like).dtype == jnp.float32


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("other", [(2, 9, 9, 1), (1, 9, 9, 3), (2, 9, 9), (2, 9, 9, 0)], ids=str)
def test_pictures_of_two_shapes_are_refused(name, other):
    with pytest.raises(InputError, match=f"{name}: images .* must have one shape"):
        PICTURES[name](np.ones((2, 9, 9, 3), np.float32), np.ones(other, np.float32))
    with pytest.raises(InputError, match=f"{name}: data_range"):
        getattr(metrics, name)(np.ones((1, 9, 9, 1)), np.ones((1, 9, 9, 1)), data_range=0)


@pytest.mark.parametrize("rule", ["round", "adm", "trunc"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grey_levels_of_any_type(dtype, rule):
    x = np.linspace(-1, 1, 301).astype(dtype)
    if dtype == np.uint8:
        with pytest.raises(InputError, match="images: uint8 must be floats"):
            metrics.to_uint8(x, rule)
        return
    wide = x.astype(np.float64)
    shift, cut = {"round": (127.5, np.round), "adm": (128.0, np.floor), "trunc": (127.5, np.floor)}[rule]
    got, want = np.asarray(metrics.to_uint8(x, rule)).astype(int), np.clip(cut(127.5 * wide + shift), 0, 255)
    # float32's own rounding may cross the edge between two levels.
    assert (got == want).mean() > 0.97 and np.abs(got - want).max() <= 1


def test_pictures_as_features():
    extract = metrics.pixels(4)
    assert extract(np.full((1, 1, 1, 1), 255, np.uint8))["pool"].tolist() == [[1.0]]
    assert extract(np.zeros((2, 9, 5, 3), np.uint8))["pool"].shape == (2, 3 * 1 * 3)
    for images in (np.zeros((1, 1, 64, 1), np.uint8), np.zeros((1, 8, 8, 1)), np.zeros((0, 8, 8, 1), np.uint8)):
        with pytest.raises(InputError, match="images: "):
            extract(images)
    shared = metrics.sharded(lambda x: {"pool": jnp.zeros((len(x), 1))}, 8)
    for batch in (np.zeros((0, 2, 2, 1), np.uint8), np.zeros((9, 2, 2, 1), np.uint8)):
        with pytest.raises(InputError, match="must have from 1 to 8"):
            shared(batch)


def test_directions_that_are_none_are_refused():
    some, none = np.eye(3), np.concatenate([np.eye(3)[:2], np.zeros((1, 3))])
    for call in (lambda: metrics.vendi_score(none), lambda: metrics.cmmd(none, some), lambda: metrics.cmmd(some, none)):
        with pytest.raises(InputError, match="1 of 3 feature vectors are 0"):
            call()
    # Tiny ones have a direction, though their squares are 0.
    assert metrics.vendi_score(1e-200 * some) == pytest.approx(3.0)
    assert metrics.cmmd(1e-200 * some, some) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in VECTORS if name not in ("inception_score", "vendi_score")])
def test_features_of_two_networks_are_refused(name):
    with pytest.raises(InputError):
        VECTORS[name](np.ones((5, 3)), np.ones((5, 4)))


def test_a_class_that_is_never_seen_adds_nothing():
    assert metrics.inception_score(1e4 * np.eye(6)[:5]).mean == pytest.approx(5.0)


def test_a_last_group_of_one():
    sure = 100 * np.eye(10)[np.arange(5001) % 10]
    assert metrics.inception_score(sure[:5000]).mean == pytest.approx(10.0)
    assert metrics.inception_score(sure).mean == pytest.approx((10 + 1) / 2)


def test_distances_far_from_the_origin_and_of_copies():
    x = np.random.default_rng(0).normal(size=(40, 6))
    far = (x + 1e7).astype(np.float64)
    near = np.linalg.norm(far[:, None] - far[None], axis=-1)
    np.fill_diagonal(near, np.inf)
    np.testing.assert_allclose(metrics.nearest(far, far, other=True).distance[:, 0], near.min(axis=1), rtol=1e-6)
    assert (metrics.nearest(far, far).distance == 0).all()
    assert metrics.precision_recall(far, far) == (1.0, 1.0)
