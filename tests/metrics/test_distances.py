"""FID, KID, CMMD, precision, recall, density, coverage, scores: against published implementations and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ldm_jax.errors import InputError
from ldm_jax.metrics import (
    cmmd,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold,
    memorization,
    moments,
    nearest,
    precision_recall,
    vendi_score,
)
from tests.conftest import ROOT
from tests.metrics.inputs import feature_sets, logits


@pytest.fixture(scope="module")
def published():
    with np.load(ROOT / "tests" / "reference" / "metrics.npz") as file:
        return {name: float(file[name]) for name in file.files if file[name].ndim == 0}


@pytest.fixture(scope="module")
def sets():
    return feature_sets()


def fid(x, y):
    return frechet_distance(moments(x).gaussian, moments(y).gaussian)


def test_fid_is_torch_fidelitys_and_scipys(sets, published):
    assert fid(*sets) == pytest.approx(published["fid"], abs=1e-4)
    assert fid(*sets) == pytest.approx(published["fid_sqrtm"], abs=1e-4)
    assert fid(*sets[::-1]) == pytest.approx(published["fid"], abs=1e-4)


def test_fid_by_hand():
    # Diagonal covariances: the sum of squared differences of means and of standard deviations.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    x = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(199)
    a, b = x * [1.0, 2.0, 3.0, 4.0, 0.0] + 1.0, x * [2.0, 2.0, 1.0, 4.5, 0.5]
    assert fid(a, b) == pytest.approx(5 * 1 + 1 + 0 + 4 + 0.25 + 0.25, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 16), (10, 64), (2, 100)])
def test_fid_of_a_set_against_itself_is_zero(n, d):
    # With fewer vectors than features, where the covariance is singular, too.
    x = 10 * np.random.default_rng(1).normal(size=(n, d)).astype(np.float32) + 3
    assert fid(x, x) < 1e-6
    assert fid(x, np.flip(x, axis=0)) < 1e-6


def test_kid_is_torch_fidelitys(sets, published):
    ours = kernel_distance(*sets, subsets=20, subset_size=50)
    assert ours.mean == pytest.approx(published["kid_mean"], abs=1e-4)
    assert ours.std == pytest.approx(published["kid_std"], abs=1e-4)
    assert ours.error == pytest.approx(ours.std / np.sqrt(20))
    with pytest.raises(InputError, match="subsets of 91 must have from 2 to 90"):
        kernel_distance(*sets, subset_size=91)


def test_kid_of_one_distribution_is_zero_within_its_error():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 600, 8)).astype(np.float32)
    same = kernel_distance(x, y, subsets=60, subset_size=100)
    assert abs(same.mean) < 3 * same.std
    assert kernel_distance(x, y + 1, subsets=60, subset_size=100).mean > 5 * same.std


def test_cmmd_by_its_definition(sets):
    x, y = (a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True) for a in sets)

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / 200).mean()

    assert cmmd(*sets) == pytest.approx(1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)), abs=1e-8)
    assert cmmd(sets[0], sets[0]) == pytest.approx(0, abs=1e-10)
    assert cmmd(5 * sets[0], sets[1]) == pytest.approx(cmmd(*sets), abs=1e-5)


def test_precision_and_recall_are_torch_fidelitys_and_prdcs(sets, published):
    samples, reference = sets
    ours = precision_recall(reference, samples)
    assert ours == pytest.approx((published["precision"], published["recall"]), abs=1e-6)
    five = precision_recall(reference, samples, k=5)
    assert five == pytest.approx((published["precision_5"], published["recall_5"]), abs=1e-6)
    assert 0 < ours.precision < 1 and 0 < ours.recall < 1


def test_density_and_coverage_are_prdcs(sets, published):
    ours = density_coverage(sets[1], sets[0])
    assert ours == pytest.approx((published["density"], published["coverage"]), abs=1e-6)


def test_manifold_metrics_by_hand():
    line = np.arange(10.0)[:, None]
    assert precision_recall(line, line) == (1.0, 1.0)
    far = line + 100
    assert precision_recall(line, far) == (0.0, 0.0)
    assert density_coverage(line, far) == (0.0, 0.0)
    # One point drawn ten times, in the middle: it lies in balls of radius 1 around 4 and 5 and on 3's and 6's edge.
    collapsed = np.full((10, 1), 4.5)
    assert precision_recall(line, collapsed, k=1).precision == 1.0
    assert precision_recall(line, collapsed, k=1).recall == 0.0
    assert density_coverage(line, collapsed, k=1) == (2.0, 0.2)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(4, 40), st.integers(1, 3), st.integers(0, 10**6))
def test_blocks_don_t_change_neighbours(n, m, k, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    rows, columns = manifold.ROWS, manifold.COLUMNS
    try:
        manifold.ROWS, manifold.COLUMNS = int(rng.integers(3, 9)), int(rng.integers(3, 9))
        found, among = nearest(x, y, k), nearest(y, y, k, other=True)
        pr, dc = precision_recall(y, np.tile(x, (4, 1))), density_coverage(y, x, k=3)
    finally:
        manifold.ROWS, manifold.COLUMNS = rows, columns
    every = cdist(x, y)
    np.testing.assert_array_equal(found.index, np.argsort(every, axis=1)[:, :k])
    np.testing.assert_allclose(found.distance, np.sort(every, axis=1)[:, :k], atol=1e-7)
    np.testing.assert_allclose(among.distance, np.sort(cdist(y, y), axis=1)[:, 1 : k + 1], atol=1e-7)
    assert pr == precision_recall(y, np.tile(x, (4, 1)))
    assert dc == density_coverage(y, x, k=3)


def test_too_few_neighbours():
    with pytest.raises(InputError, match="3 images; 3 neighbours of each need at least 4"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))


def test_memorization_tells_copies_from_new_images():
    rng = np.random.default_rng(0)
    train, test, new = rng.normal(size=(3, 400, 6)).astype(np.float32)
    fair = memorization(new, train, test)
    assert fair.copies < 0.05 and abs(fair.z) < 3
    assert fair.distance == pytest.approx(fair.distance_test, rel=0.15)
    copied = memorization(np.concatenate([train[:100] + 1e-3, new[:300]]), train, test)
    assert 0.25 <= copied.copies < 0.3
    assert copied.z < -5
    everything = memorization(train, np.concatenate([train, train]), test)
    assert everything.copies == 1.0 and everything.distance == 0.0


def test_inception_score_is_torch_fidelitys(published):
    assert inception_score(logits()).mean == pytest.approx(published["inception_score"], abs=1e-4)
    split = inception_score(logits(), split_size=60)
    assert split.mean == pytest.approx(published["inception_score_split_60"], abs=1e-4)
    assert split.std > 0


def test_inception_score_by_hand():
    # Five sure classes, evenly: 5. All the same: 1.
    assert inception_score(100 * np.eye(5)).mean == pytest.approx(5.0)
    assert inception_score(np.ones((7, 5))).mean == pytest.approx(1.0)


def test_vendi_score_counts_what_differs():
    axes = np.eye(6)
    assert vendi_score(axes) == pytest.approx(6.0)
    assert vendi_score(np.repeat(axes[:3], 4, axis=0)) == pytest.approx(3.0)
    assert vendi_score(np.ones((5, 3))) == pytest.approx(1.0)
    assert vendi_score(axes[:, :5][:5]) == pytest.approx(5.0)
