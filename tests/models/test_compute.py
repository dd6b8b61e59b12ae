"""bfloat16, remat and scan by one field for every network: near, or equal to, the plain function; its gradient too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import ALL, inputs, randomised, shapes

from ldm_jax.errors import InputError
from ldm_jax.models import stack_blocks, unstack_blocks, with_compute
from ldm_jax.pretrained import load_part, save_part
from tests.compiled import apply

SCANNED = ("dit", "mmdit")
LONG = ("vq", "fsq", "lpips", "unet", "mmdit")
"""Made of the layers of others, or long to differentiate."""


def changed(name, **compute):
    module = ALL[name]
    return type(module)(with_compute(module.config, **compute))


def outputs_and_gradient(module, params, args):
    @jax.jit
    def run(params):
        def loss(params):
            out = apply(module, params, *args)
            return sum(jnp.square(leaf).mean() for leaf in jax.tree.leaves(out)), out

        return jax.value_and_grad(loss, has_aux=True)(params)

    jax.eval_shape(lambda params: apply(module, params, *args), params)
    # Forwards nothing is mixed; the derivative of JAX's own attention mixes its types in bfloat16.
    with jax.numpy_dtype_promotion("standard"):
        (_, out), gradient = run(params)
    return out, gradient


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(tree)))


def difference(a, b):
    return norm(jax.tree.map(np.subtract, a, b)) / norm(b)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ALL])
def test_compute_changes_rounding_alone(name):
    """Outputs and gradients; bfloat16 has 8 bits, and some twenty roundings follow each other."""
    params, args = randomised(ALL[name]), inputs(name)
    plain = outputs_and_gradient(ALL[name], params, args)
    remat = outputs_and_gradient(changed(name, remat=True), params, args)
    for one, two in zip(remat, plain, strict=True):
        assert difference(one, two) < 1e-5
    # The nearest code of a VQ, a rounding of an FSQ may be another: their encoders alone are compared.
    if name in ("vq", "fsq"):
        module, half = ALL[name], changed(name, dtype="bfloat16")
        z = apply(module, params, *args, method="encode")
        plain = z, apply(module, params, z, method="decode")
        rounded = apply(half, params, *args, method="encode"), apply(half, params, z, method="decode")
    else:
        rounded = outputs_and_gradient(changed(name, dtype="bfloat16"), params, args)
    for leaf in jax.tree.leaves(rounded):
        assert leaf.dtype == jnp.float32
    for one, two in zip(rounded, plain, strict=True):
        assert 1e-5 < difference(one, two) < 0.1


@pytest.mark.parametrize("name", ["dit", pytest.param("mmdit", marks=pytest.mark.slow)])
def test_scan_is_the_loop_over_stacked_blocks(name):
    params, args = randomised(ALL[name]), inputs(name)
    module, stacked = changed(name, scan=True), stack_blocks(params)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(lambda leaf: leaf.shape, shapes(module))
    out, gradient = outputs_and_gradient(ALL[name], params, args)
    for change in ({"scan": True}, {"scan": True, "remat": True}):
        ours, slope = outputs_and_gradient(changed(name, **change), stacked, args)
        assert difference(ours, out) < 1e-5
        assert difference(unstack_blocks(slope), gradient) < 1e-5
    assert len(stacked) < len(params)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), params)
    assert unstack_blocks(params).keys() == params.keys()


@pytest.mark.parametrize("name", SCANNED)
def test_a_scanned_model_is_saved_in_the_plain_layout(name, tmp_path):
    params = randomised(ALL[name])
    save_part(changed(name, scan=True), stack_blocks(params), tmp_path)
    module, back = load_part(tmp_path)
    assert module == ALL[name]
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_with_compute_refuses_what_a_network_cannot_do():
    config = ALL["unet"].config
    assert with_compute(config) == config
    assert with_compute(config, scan=False) == config
    with pytest.raises(InputError, match="scan: True is not for UNetConfig"):
        with_compute(config, scan=True)
