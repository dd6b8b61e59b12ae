"""Checkpoints in one file: Stable Diffusion 1, 2 and XL under CompVis names; DiT, SiT and LightningDiT."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import Autoencoder, DiT, DiTConfig, TextEncoder, TextEncoderConfig, UNet
from ldm_jax.models.dit import sincos_positions
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.names import Numbers, Table, sources
from ldm_jax.pretrained.parts import Opened, published_tensors, read_params
from ldm_jax.pretrained.tables import compvis
from ldm_jax.pretrained.tables.text import CLIP, CLIP_DERIVED
from ldm_jax.pretrained.tables.transformers import original_config, original_table
from ldm_jax.pretrained.tensors import Info, Renamed, Tensors
from ldm_jax.pretrained.writing import write_safetensors


class Section(NamedTuple):
    """A part of a single file: the prefix of its names, and how its network follows from them."""

    prefix: str
    part: str
    """The folder that diffusers has it in."""
    module: type[nn.Module]
    config: Callable[[Mapping[str, Info]], Any]
    table: Callable[[Any], Table]
    derived: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """Names that may be left over, as regular expressions."""


def _levels(config: Any) -> Numbers:
    return Numbers(levels=len(getattr(config, "multipliers", ())) or len(getattr(config, "channels", ())) or 1)


def _sd2_config(info: Mapping[str, Info]) -> TextEncoderConfig:
    """SD 2 conditions on the states before OpenCLIP's last block, so that block and the projection are left out."""
    config = compvis.open_clip_config(info)
    return dataclasses.replace(config, depth=config.depth - 1, projection=0)


def _sd2_derived(config: TextEncoderConfig) -> tuple[str, ...]:
    return (*compvis.OPEN_CLIP_DERIVED, rf"transformer\.resblocks\.{config.depth}\..*", "text_projection")


OPENAI_CLIP = (TextEncoder, compvis.clip_config, lambda config: CLIP, lambda config: CLIP_DERIVED)
SECTIONS = (
    Section("model.diffusion_model.", "unet", UNet, compvis.unet_config, compvis.unet_table),
    Section(
        "first_stage_model.",
        "vae",
        Autoencoder,
        compvis.first_stage_config,
        lambda config: compvis.FIRST_STAGE,
        lambda config: (r"loss\..*",),
    ),
    Section("cond_stage_model.transformer.", "text_encoder", *OPENAI_CLIP),
    Section(
        "cond_stage_model.model.",
        "text_encoder",
        TextEncoder,
        _sd2_config,
        lambda config: compvis.OPEN_CLIP,
        _sd2_derived,
    ),
    Section("conditioner.embedders.0.transformer.", "text_encoder", *OPENAI_CLIP),
    Section(
        "conditioner.embedders.1.model.",
        "text_encoder_2",
        TextEncoder,
        compvis.open_clip_config,
        lambda config: compvis.OPEN_CLIP,
        lambda config: compvis.OPEN_CLIP_DERIVED,
    ),
)
DERIVED = (
    r"model_ema\..*",
    r"(sqrt_|posterior_|log_)?(one_minus_|recip_|recipm1_|mean_|variance|log_)*"
    r"(betas|alphas_cumprod(_prev)?|coef[12]|clipped)",
    r"posterior_.*|sqrt_.*|log_one_minus_alphas_cumprod|lvlb_weights|logvar|scale_factor|denoiser\.sigmas",
)
"""Schedule tables and a second set of averaged weights, which LDM's checkpoints hold beside the networks."""
ORIGINAL_DERIVED = (r"pos_embed", r"feat_rope\.freqs_(cos|sin)")
"""Positions that follow from the config."""


def _strip(tensors: Tensors, prefix: str) -> Tensors:
    names = {name.removeprefix(prefix): name for name in tensors.info if name.startswith(prefix)}
    return Renamed(tensors, names)


def open_single(path: str | Path, heads: int | None = None) -> dict[str, Opened]:
    """The networks in one file, by the name of the folder that diffusers would have them in; nothing is read yet.

    heads: attention heads of a DiT whose width is not one of the published ones.
    """
    path = Path(path)
    tensors = open_file(path)
    for wrapper in ("state_dict.", "ema.", "model.module.", "module."):
        inside = any(name.startswith(wrapper) for name in tensors.info)
        if inside and not any(name.startswith("model.diffusion_model.") for name in tensors.info):
            tensors = _strip(tensors, wrapper)
    if "x_embedder.proj.weight" in tensors.info and "final_layer.linear.weight" in tensors.info:
        config = original_config(tensors.info, heads)
        module = DiT(config)
        wanted = sources(module, original_table(config), Numbers(patch=config.patch))
        return {"transformer": Opened(module, tensors, wanted, ORIGINAL_DERIVED, str(path))}
    parts: dict[str, Opened] = {}
    for section in SECTIONS:
        own = _strip(tensors, section.prefix)
        if own.info:
            config = section.config(own.info)
            module = section.module(config)  # type: ignore[call-arg]
            wanted = sources(module, section.table(config), _levels(config))
            parts[section.part] = Opened(
                module, own, wanted, section.derived(config), f"{path} ({section.prefix[:-1]})"
            )
    if not parts:
        first = min(tensors.info, default="nothing")
        raise InputError(f"model: {path} is no checkpoint that is known; it holds {first}")
    prefixes = tuple(section.prefix for section in SECTIONS)
    known = "|".join(f"(?:{pattern})" for pattern in DERIVED)
    rest = [name for name in tensors.info if not name.startswith(prefixes) and not re.fullmatch(known, name)]
    if rest:
        raise InputError(f"model: {path} has besides {len(rest)} tensors, {min(rest)} first")
    return parts


def load_single(
    path: str | Path,
    *,
    dtype: str | None = "float32",
    sharding: Any = None,
    ignore: Sequence[str] = (),
    heads: int | None = None,
) -> dict[str, tuple[nn.Module, Any]]:
    """{part: (module, params)} of a single-file checkpoint; see `load_part` for the keywords."""
    opened = open_single(path, heads)
    return {part: (one.module, read_params(one, dtype, sharding, ignore)) for part, one in opened.items()}


def save_original(module: DiT, params: Any, path: str | Path, size: int) -> None:
    """Writes a DiT under the names of facebookresearch/DiT, SiT and LightningDiT, as safetensors.

    size: tokens a side, for the table of fixed positions that those files hold.
    """
    config: DiTConfig = module.config
    plain = dataclasses.replace(original_config_like(config), dtype=config.dtype, remat=config.remat)
    if plain != config:
        raise InputError("model: this DiT is none of the original ones (time_scale 1, no frequency shift, no scan)")
    tensors = published_tensors(params, sources(module, original_table(config), Numbers(patch=config.patch)))
    table = sincos_positions((size, size), config.width)[None]
    tensors["pos_embed"] = Info(np.dtype(np.float32), table.shape), lambda: table
    write_safetensors(Path(path), tensors, {"format": "pt"})


def original_config_like(config: DiTConfig) -> DiTConfig:
    """The config with everything that the original files can't express at the original's value."""
    return dataclasses.replace(
        config,
        time_scale=1.0,
        frequency_shift=0.0,
        mlp_norm_epsilon=1e-6,
        base_size=0,
        block_embedders=False,
        scan=False,
        norm_scale=config.norm == "rms",
        mlp_ratio=4.0,
    )
