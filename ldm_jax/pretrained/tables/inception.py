"""Names of the Inception of 2015-12-05: torchvision's, which torch-fidelity and pytorch-fid keep, and StyleGAN's."""

from __future__ import annotations

from ldm_jax.pretrained.layouts import ARRAY, CONV, LINEAR, Layer, Leaf
from ldm_jax.pretrained.names import Rule, Table
from ldm_jax.pretrained.tables.features import conv_norm

Row = tuple[str, str, str]
"""Ours, torchvision's, StyleGAN's (TensorFlow's) name."""


def _run(ours: str, torchvision: str, stylegan: str, count: int) -> tuple[Row, ...]:
    """Layers one after the other, as each counts them."""
    later = (f"{stylegan}_{i}" if i else stylegan for i in range(count))
    return tuple((f"{ours}_{i}", f"{torchvision}_{i + 1}", name) for i, name in enumerate(later))


FIRST: Row = ("branch0_0", "branch1x1", "conv")
POOL: Row = ("pool", "branch_pool", "tower_2.conv")
A = (FIRST, *_run("branch1", "branch5x5", "tower.conv", 2), *_run("branch2", "branch3x3dbl", "tower_1.conv", 3), POOL)
B = (("branch0_0", "branch3x3", "conv"), *_run("branch1", "branch3x3dbl", "tower.conv", 3))
C = (FIRST, *_run("branch1", "branch7x7", "tower.conv", 3), *_run("branch2", "branch7x7dbl", "tower_1.conv", 5), POOL)
D = (*_run("branch0", "branch3x3", "tower.conv", 2), *_run("branch1", "branch7x7x3", "tower_1.conv", 4))
E = (
    FIRST,
    ("branch1_0", "branch3x3_1", "tower_conv"),
    ("branch1_row", "branch3x3_2a", "tower_mixed_conv"),
    ("branch1_column", "branch3x3_2b", "tower_mixed_conv_1"),
    *_run("branch2", "branch3x3dbl", "tower_1_conv", 2),
    ("branch2_row", "branch3x3dbl_3a", "tower_1_mixed_conv"),
    ("branch2_column", "branch3x3dbl_3b", "tower_1_mixed_conv_1"),
    ("pool", "branch_pool", "tower_2_conv"),
)
BLOCKS = (A, A, A, B, C, C, C, C, D, E, E)
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
STEM: tuple[Row, ...] = tuple(
    (f"conv{i}", f"Conv2d_{name}", f"conv_{i}" if i else "conv")
    for i, name in enumerate(("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"))
)
ROWS: tuple[Row, ...] = STEM + tuple(
    (f"mixed{i}/{ours}", f"Mixed_{name}.{torchvision}", f"mixed_{i}.{stylegan}" if i else f"mixed.{stylegan}")
    for i, (name, block) in enumerate(zip(MIXED, BLOCKS, strict=True))
    for ours, torchvision, stylegan in block
)


def _stylegan(theirs: str, ours: str) -> Table:
    """One module is convolution and batch norm; it has no scale, and `gamma` stands for the 1 that it would be."""
    leaves = {"scale": "gamma", "bias": "beta", "mean": "mean", "var": "var"}
    norm: Layer = {leaf: Leaf(name, "same") for leaf, name in leaves.items()}
    return Rule(theirs, f"{ours}/conv", CONV), Rule(theirs, f"{ours}/norm", norm)


def _head(name: str) -> Table:
    return Rule(name, "classes", LINEAR), Rule(f"{name}.bias", "bias", ARRAY)


INCEPTION: Table = (
    *(rule for ours, theirs, _ in ROWS for rule in conv_norm(f"{theirs}.conv", f"{theirs}.bn", ours)),
    *_head("fc"),
)
"""torch-fidelity's weights-inception-2015-12-05-6726825d.pth, pytorch-fid's pt_inception-2015-12-05-6726825d.pth."""
INCEPTION_STYLEGAN: Table = (
    *(rule for ours, _, theirs in ROWS for rule in _stylegan(f"layers.{theirs}", ours)),
    *_head("output"),
)
"""inception-2015-12-05.pt of StyleGAN2-ADA, a TorchScript archive."""
