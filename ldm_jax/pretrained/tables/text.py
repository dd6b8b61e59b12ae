"""CLIPTextModel, CLIPTextModelWithProjection and BertModel of transformers, LDMBertModel of diffusers."""

from __future__ import annotations

from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.models import TextEncoder, TextEncoderConfig
from ldm_jax.pretrained.formats import Fields, Format
from ldm_jax.pretrained.layouts import EMBED, LINEAR, NORM
from ldm_jax.pretrained.names import Numbers, Rule, Table, under
from ldm_jax.pretrained.tensors import Tensors

CLIP_BLOCK: Table = (
    Rule(".layer_norm1", "/norm1", NORM),
    Rule(".self_attn.q_proj", "/attention/query", LINEAR),
    Rule(".self_attn.k_proj", "/attention/key", LINEAR),
    Rule(".self_attn.v_proj", "/attention/value", LINEAR),
    Rule(".self_attn.out_proj", "/attention/out", LINEAR),
    Rule(".layer_norm2", "/norm3", NORM),
    Rule(".mlp.fc1", "/mlp/in", LINEAR),
    Rule(".mlp.fc2", "/mlp/out", LINEAR),
)
CLIP: Table = (
    Rule("text_model.embeddings.token_embedding", "tokens", EMBED),
    Rule("text_model.embeddings.position_embedding", "places", EMBED),
    *under("text_model.encoder.layers.{i}", "block{i}", CLIP_BLOCK),
    Rule("text_model.final_layer_norm", "norm", NORM),
)
CLIP_PROJECTION: Table = (*CLIP, Rule("text_projection", "project", LINEAR))
BERT_BLOCK: Table = (
    Rule(".attention.self.query", "/attention/query", LINEAR),
    Rule(".attention.self.key", "/attention/key", LINEAR),
    Rule(".attention.self.value", "/attention/value", LINEAR),
    Rule(".attention.output.dense", "/attention/out", LINEAR),
    Rule(".attention.output.LayerNorm", "/norm1", NORM),
    Rule(".intermediate.dense", "/mlp/in", LINEAR),
    Rule(".output.dense", "/mlp/out", LINEAR),
    Rule(".output.LayerNorm", "/norm3", NORM),
)
BERT_TABLE: Table = (
    Rule("embeddings.word_embeddings", "tokens", EMBED),
    Rule("embeddings.position_embeddings", "places", EMBED),
    Rule("embeddings.token_type_embeddings", "segment_table", EMBED),
    Rule("embeddings.LayerNorm", "norm", NORM),
    *under("encoder.layer.{i}", "block{i}", BERT_BLOCK),
    Rule("pooler.dense", "pooler", LINEAR),
)
LDM_BLOCK: Table = (
    Rule(".self_attn_layer_norm", "/norm1", NORM),
    *(row for row in CLIP_BLOCK if "self_attn." in row.published),
    Rule(".final_layer_norm", "/norm3", NORM),
    Rule(".fc1", "/mlp/in", LINEAR),
    Rule(".fc2", "/mlp/out", LINEAR),
)
LDM_BERT_TABLE: Table = (
    Rule("model.embed_tokens", "tokens", EMBED),
    Rule("model.embed_positions", "places", EMBED),
    *under("model.layers.{i}", "block{i}", LDM_BLOCK),
    Rule("model.layer_norm", "norm", NORM),
    Rule("to_logits", "logits", LINEAR),
)
TRAINING = (
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "initializer_range"),
    *("initializer_factor", "attention_dropout", "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("classifier_dropout", "position_embedding_type", "gradient_checkpointing", "use_cache", "return_dict"),
    *("output_hidden_states", "output_attentions", "bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"),
    *("tie_word_embeddings", "init_std"),
)
"""Keys of transformers' configs that change nothing in the network or are read beside this list."""
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "gelu_new": "gelu_tanh"}


def _activation(fields: Fields, key: str, default: str) -> Any:
    name = fields.get(key, default)
    if name not in ACTIVATIONS:
        raise InputError(f"{fields.where}.{key}: {name!r} must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _published_activation(config: TextEncoderConfig) -> str:
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)


def _optional(fields: Fields, key: str, default: int) -> int:
    return default if fields.get(key) is None else fields.integer(key)


def _rows(fields: Fields, tensors: Tensors, name: str, default: int) -> int:
    """Tokens of the embedding: those of the file, where tokens were added and the config was left as it was."""
    stated = fields.integer("vocab_size", default)
    held = tensors.info[name].shape if name in tensors.info else ()
    return max(stated, held[0]) if len(held) == 2 else stated


def _read_clip(fields: Fields, tensors: Tensors, projection: bool) -> TextEncoderConfig:
    fields.ignore(*TRAINING)
    return TextEncoderConfig(
        vocabulary=_rows(fields, tensors, "text_model.embeddings.token_embedding.weight", 49408),
        positions=fields.integer("max_position_embeddings", 77),
        width=fields.integer("hidden_size", 512),
        depth=fields.integer("num_hidden_layers", 12),
        heads=fields.integer("num_attention_heads", 8),
        hidden=fields.integer("intermediate_size", 2048),
        activation=_activation(fields, "hidden_act", "quick_gelu"),
        epsilon=fields.number("layer_norm_eps", 1e-5),
        end_id=_optional(fields, "eos_token_id", 49407),
        projection=fields.integer("projection_dim", 512) if projection else 0,
        pad_id=_optional(fields, "pad_token_id", 1),
        start_id=_optional(fields, "bos_token_id", 49406),
    )


def _is_clip(config: TextEncoderConfig) -> bool:
    return (
        config.norm_first
        and config.causal
        and config.qkv_bias
        and not config.segments
        and config.pooling == "end"
        and config.head_dim in (0, config.width // config.heads)
    )


def _write_clip(config: TextEncoderConfig, projection: bool) -> dict[str, Any] | None:
    if not _is_clip(config) or bool(config.projection) != projection:
        return None
    name = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"
    record = {
        "architectures": [name],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": _published_activation(config),
        "layer_norm_eps": config.epsilon,
        "eos_token_id": config.end_id,
        "bos_token_id": config.start_id,
        "pad_token_id": config.pad_id,
    }
    return {**record, "projection_dim": config.projection} if projection else record


CLIP_ALIASES = ((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),)
"""transformers 5 drops the prefix in memory; files have it, unless someone saved a bare state dict."""
CLIP_DERIVED = (r"text_model\.embeddings\.position_ids",)

CLIP_TEXT = Format(
    "CLIPTextModel",
    TextEncoder,
    lambda fields, tensors: _read_clip(fields, tensors, False),
    lambda config: _write_clip(config, False),
    lambda config: CLIP,
    lambda config: Numbers(),
    CLIP_ALIASES,
    CLIP_DERIVED,
    "model",
)
CLIP_TEXT_PROJECTION = CLIP_TEXT._replace(
    name="CLIPTextModelWithProjection",
    read=lambda fields, tensors: _read_clip(fields, tensors, True),
    write=lambda config: _write_clip(config, True),
    table=lambda config: CLIP_PROJECTION,
)


def _read_bert(fields: Fields, tensors: Tensors) -> TextEncoderConfig:
    fields.only(position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    fields.ignore(*TRAINING)
    pooler = any(name.startswith("pooler.") for name in tensors.info)
    return TextEncoderConfig(
        vocabulary=_rows(fields, tensors, "embeddings.word_embeddings.weight", 30522),
        positions=fields.integer("max_position_embeddings", 512),
        width=fields.integer("hidden_size", 768),
        depth=fields.integer("num_hidden_layers", 12),
        heads=fields.integer("num_attention_heads", 12),
        hidden=fields.integer("intermediate_size", 3072),
        activation=_activation(fields, "hidden_act", "gelu"),
        causal=False,
        norm_first=False,
        epsilon=fields.number("layer_norm_eps", 1e-12),
        segments=fields.integer("type_vocab_size", 2),
        pooling="first" if pooler else "none",
        pad_id=_optional(fields, "pad_token_id", 0),
    )


def _write_bert(config: TextEncoderConfig) -> dict[str, Any] | None:
    if config.norm_first or config.causal or config.pooling == "end" or not config.qkv_bias or config.projection:
        return None
    if not config.segments or config.head_dim not in (0, config.width // config.heads):
        return None
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": _published_activation(config),
        "layer_norm_eps": config.epsilon,
        "type_vocab_size": config.segments,
        "position_embedding_type": "absolute",
        "pad_token_id": config.pad_id,
    }


BERT = Format(
    "BertModel",
    TextEncoder,
    _read_bert,
    _write_bert,
    lambda config: BERT_TABLE,
    lambda config: Numbers(),
    ((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    (r"embeddings\.position_ids", r"cls\..*"),
    "model",
)


def _read_ldm_bert(fields: Fields, tensors: Tensors) -> TextEncoderConfig:
    fields.ignore(*TRAINING, "encoder_layerdrop", "decoder_layerdrop", "classifier_dropout", "scale_embedding")
    fields.ignore("num_hidden_layers", "activation_dropout", "is_encoder_decoder")
    return TextEncoderConfig(
        vocabulary=fields.integer("vocab_size", 30522),
        positions=fields.integer("max_position_embeddings", 77),
        width=fields.integer("d_model", 1280),
        depth=fields.integer("encoder_layers", 32),
        heads=fields.integer("encoder_attention_heads", 8),
        head_dim=fields.integer("head_dim", 64),
        hidden=fields.integer("encoder_ffn_dim", 5120),
        activation=_activation(fields, "activation_function", "gelu"),
        causal=False,
        qkv_bias=False,
        pooling="none",
        logits=True,
        pad_id=_optional(fields, "pad_token_id", 0),
    )


def _write_ldm_bert(config: TextEncoderConfig) -> dict[str, Any] | None:
    if config.causal or config.qkv_bias or not config.norm_first or config.pooling != "none":
        return None
    if config.segments or not config.logits:
        return None
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "d_model": config.width,
        "encoder_layers": config.depth,
        "encoder_attention_heads": config.heads,
        "head_dim": config.head_dim or config.width // config.heads,
        "encoder_ffn_dim": config.hidden,
        "activation_function": _published_activation(config),
        "pad_token_id": config.pad_id,
    }


LDM_BERT = Format(
    "LDMBertModel",
    TextEncoder,
    _read_ldm_bert,
    _write_ldm_bert,
    lambda config: LDM_BERT_TABLE,
    lambda config: Numbers(),
    (),
    (r"model\.embed_positions\.position_ids",),
    "model",
)
