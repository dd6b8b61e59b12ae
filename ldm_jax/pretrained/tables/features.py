"""Names of the networks whose features are compared: EfficientNet-Lite0, Inception, DINOv2, CLIP's vision half."""

from __future__ import annotations

from ldm_jax.pretrained.layouts import BIAS, CONV, LINEAR, Layer, Leaf
from ldm_jax.pretrained.names import Rule, Table

FROZEN_NORM: Layer = {
    "scale": Leaf("weight", "same"),
    "bias": BIAS,
    "mean": Leaf("running_mean", "same"),
    "var": Leaf("running_var", "same"),
}
COUNTERS = (r".*\.num_batches_tracked",)
"""What PyTorch's batch norms hold beside."""


def conv_norm(convolution: str, norm: str, ours: str) -> Table:
    """A convolution and its batch norm."""
    return Rule(convolution, f"{ours}/conv", CONV), Rule(norm, f"{ours}/norm", FROZEN_NORM)


EFFICIENTNET: Table = (
    *conv_norm("_conv_stem", "_bn0", "stem"),
    *conv_norm("_blocks.{i}._expand_conv", "_blocks.{i}._bn0", "block{i}/expand"),
    *conv_norm("_blocks.{i}._depthwise_conv", "_blocks.{i}._bn1", "block{i}/depthwise"),
    *conv_norm("_blocks.{i}._project_conv", "_blocks.{i}._bn2", "block{i}/project"),
    *conv_norm("_conv_head", "_bn1", "head"),
    Rule("_fc", "classes", LINEAR),
)
