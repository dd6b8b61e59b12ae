import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning, DiT, DiTConfig, apply
from ldm_jax.models.dit import rope_angles, rotate, sincos_positions
from tests import compiled

TINY = DiTConfig(in_channels=3, out_channels=3, patch=2, width=16, depth=2, heads=2, num_classes=5)
Z = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
T = jnp.linspace(0.1, 0.9, 4)
LABEL = Conditioning(label=jnp.arange(4))


def randomised(module, *args):
    """Parameters without zeros: adaLN-Zero starts as the identity, which would hide mistakes."""
    params = jax.jit(module.init)(jax.random.key(1), *args)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noise = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noise)


class TestVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(
        {},
        {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True},
        {"num_classes": 0, "patch": 1},
        {"dtype": "bfloat16", "remat": True, "scan": True},
    )
    def test_shapes(self, **change):
        module = DiT(dataclasses.replace(TINY, **change))
        params = randomised(module, Z, T, LABEL)
        out = self.variant(lambda p, *args: apply(module, p, *args))(params, Z, T, LABEL)
        chex.assert_shape(out, Z.shape)
        chex.assert_type(out, jnp.float32)
        chex.assert_tree_all_finite((params, out))


@pytest.mark.parametrize("space", [(8,), (4, 6), (2, 4, 2)])
def test_every_rank(space):
    module = DiT(dataclasses.replace(TINY, rope=True))
    z = jnp.ones((2, *space, 3))
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), z, T[:2], Conditioning(label=jnp.arange(2)))
    chex.assert_shape(out, z.shape)


def test_starts_at_zero():
    module = DiT(TINY)
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), Z, T, LABEL)
    np.testing.assert_array_equal(out, 0.0)


def test_scan_remat_and_loop_are_the_same_function():
    loop = DiT(TINY)
    params = randomised(loop, Z, T, LABEL)
    blocks = [params[f"block{i}"] for i in range(2)]
    stacked = {k: v for k, v in params.items() if not k.startswith("block")}
    stacked["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
    expected = compiled.apply(loop, params, Z, T, LABEL)
    for change, p in (({"scan": True}, stacked), ({"remat": True}, params)):
        out = compiled.apply(DiT(dataclasses.replace(TINY, **change)), p, Z, T, LABEL)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_condition_and_time_matter_per_example():
    module = DiT(TINY)
    params = randomised(module, Z, T, LABEL)
    base = compiled.apply(module, params, Z, T, LABEL)
    other = compiled.apply(module, params, Z, T, Conditioning(label=jnp.array([0, 1, 2, 5])))
    changed = jnp.abs(base - other).max(axis=(1, 2, 3)) > 1e-4
    np.testing.assert_array_equal(changed, [False, False, False, True])
    later = compiled.apply(module, params, Z, T.at[1].set(0.0), LABEL)
    changed = jnp.abs(base - later).max(axis=(1, 2, 3)) > 1e-4
    np.testing.assert_array_equal(changed, [False, True, False, False])


def test_image_condition_is_concatenated():
    module = DiT(dataclasses.replace(TINY, in_channels=5))
    cond = LABEL._replace(image=jnp.ones((4, 4, 4, 2)))
    params = randomised(module, Z, T, cond)
    out = compiled.apply(module, params, Z, T, cond)
    chex.assert_shape(out, Z.shape)
    assert float(jnp.abs(out - compiled.apply(module, params, Z, T, cond._replace(image=2 * cond.image))).max()) > 1e-4


def test_positions_are_distinct_and_axes_separate():
    table = sincos_positions((3, 4), 16)
    assert len(np.unique(table.round(6), axis=0)) == 12
    # The first half is a function of the last axis alone.
    np.testing.assert_array_equal(table[0, :8], table[4, :8])
    assert not np.allclose(table[0, 8:], table[4, 8:])


def test_rotary_products_depend_on_distance_alone():
    angles = jnp.asarray(rope_angles((6,), 8))
    q, k = (jnp.broadcast_to(jax.random.normal(jax.random.key(i), (8,)), (1, 6, 1, 8)) for i in range(2))
    scores = jnp.einsum("bnhd,bmhd->nm", rotate(q, angles), rotate(k, angles))
    np.testing.assert_allclose(scores[0, 2], scores[3, 5], rtol=1e-5)
    assert abs(float(scores[0, 2] - scores[0, 3])) > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 15}, "heads"),
        ({"depth": 0}, "depth"),
        ({"num_classes": -2}, "num_classes"),
        ({"context_dim": -2}, "context"),
    ],
)
def test_bad_configs(change, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(TINY, **change)


def test_positions_share_the_width_among_the_axes_that_there_are():
    """14 features are seven pairs: fine on one axis, odd on two; heads of 6 turn three pairs on one axis."""

    def start(rank, **change):
        module = DiT(dataclasses.replace(TINY, **change))
        return jax.eval_shape(module.init, jax.random.key(0), *module.example_inputs(rank))["params"]

    for change, field in (({"width": 14}, "width: 14"), ({"width": 12, "rope": True}, "rope: width / heads: 6")):
        chex.assert_shape(start(1, **change)["out"]["bias"], (6,))
        with pytest.raises(InputError, match=f"denoiser.{field} must be a multiple of 4"):
            start(2, **change)
    with pytest.raises(InputError, match="width: 4 must be a multiple of 2, at least 6"):
        start(3, width=4)
