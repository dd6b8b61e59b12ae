"""Rows that the autoencoders and the UNets share: ResNet blocks and single attention layers as diffusers names them."""

from ldm_jax.pretrained.layouts import CONV, LINEAR, NORM
from ldm_jax.pretrained.names import Rule, Table

MIDDLE_RESNET: Table = (
    Rule(".norm1", "/norm1/norm", NORM),
    Rule(".conv1", "/conv1", CONV),
    Rule(".norm2", "/norm2/norm", NORM),
    Rule(".conv2", "/conv2", CONV),
)
RESNET: Table = (*MIDDLE_RESNET, Rule(".conv_shortcut", "/shortcut", CONV))
TIME: Table = (Rule(".time_emb_proj", "/embedding", LINEAR),)
"""What a UNet's ResNet block has besides."""
ATTENTION: Table = (
    Rule(".group_norm", "/norm/norm", NORM),
    Rule(".to_q", "/query", LINEAR),
    Rule(".to_k", "/key", LINEAR),
    Rule(".to_v", "/value", LINEAR),
    Rule(".to_out.0", "/out", LINEAR),
)
OLD_ATTENTION = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""Names of diffusers before 0.12, still in many published files."""
