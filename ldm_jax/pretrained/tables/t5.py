"""T5EncoderModel of transformers, version 1.1."""

from __future__ import annotations

from typing import Any

from ldm_jax.models import T5Config, T5Encoder
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.layouts import EMBED, LINEAR, NORM
from ldm_jax.pretrained.names import Numbers, Rule, Table, under
from ldm_jax.pretrained.tables.text import TRAINING
from ldm_jax.pretrained.tensors import Tensors

BLOCK: Table = (
    Rule(".layer.0.layer_norm", "/norm1", NORM),
    Rule(".layer.0.SelfAttention.q", "/query", LINEAR),
    Rule(".layer.0.SelfAttention.k", "/key", LINEAR),
    Rule(".layer.0.SelfAttention.v", "/value", LINEAR),
    Rule(".layer.0.SelfAttention.o", "/out", LINEAR),
    Rule(".layer.1.layer_norm", "/norm2", NORM),
    Rule(".layer.1.DenseReluDense.wi_0", "/gate", LINEAR),
    Rule(".layer.1.DenseReluDense.wi_1", "/in", LINEAR),
    Rule(".layer.1.DenseReluDense.wo", "/down", LINEAR),
)
T5_TABLE: Table = (
    Rule("shared", "tokens", EMBED),
    Rule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "distances", EMBED),
    *under("encoder.block.{i}", "block{i}", BLOCK),
    Rule("encoder.final_layer_norm", "norm", NORM),
)
T5_DERIVED = (r"encoder\.embed_tokens\.weight",)
"""The token embedding once more."""


def _read(fields: Fields, tensors: Tensors) -> T5Config:
    fields.ignore(*TRAINING, "dropout_rate", "classifier_dropout", "num_decoder_layers", "n_positions", "output_past")
    fields.ignore("is_encoder_decoder", "decoder_start_token_id", "task_specific_params", "scale_decoder_outputs")
    # What the encoder is; original T5 has relu without a gate.
    fields.only(feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", is_gated_act=True, is_decoder=False)
    fields.get("feed_forward_proj")
    return T5Config(
        vocabulary=fields.integer("vocab_size", 32128),
        width=fields.integer("d_model", 512),
        depth=fields.integer("num_layers", 6),
        heads=fields.integer("num_heads", 8),
        head_dim=fields.integer("d_kv", 64),
        hidden=fields.integer("d_ff", 2048),
        buckets=fields.integer("relative_attention_num_buckets", 32),
        farthest=fields.integer("relative_attention_max_distance", 128),
        epsilon=fields.number("layer_norm_epsilon", 1e-6),
        pad_id=fields.integer("pad_token_id", 0),
    )


def _write(config: T5Config) -> dict[str, Any]:
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "d_kv": config.head_dim,
        "d_ff": config.hidden,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.farthest,
        "layer_norm_epsilon": config.epsilon,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": config.pad_id,
    }


T5 = Format(
    "T5EncoderModel",
    T5Encoder,
    _read,
    _write,
    lambda config: T5_TABLE,
    lambda config: Numbers(),
    derived=T5_DERIVED,
    stem="model",
)
