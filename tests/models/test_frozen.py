import flax.linen as nn
import jax
import numpy as np
import pytest

from ldm_jax.models.frozen import DepthwiseConv


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 9), (3, 2, 8), (3, 2, 9), (5, 2, 14), (5, 1, 6)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_shifted_sums_are_grouped_convolutions(size, stride, side, padding):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 3, 4))
    ours = DepthwiseConv((size, size), stride, padding)
    theirs = nn.Conv(4, (size, size), stride, padding=padding, use_bias=False, feature_group_count=4)
    params = theirs.init(jax.random.key(1), x)
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-5)
    assert jax.tree.map(np.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(np.shape, params)
