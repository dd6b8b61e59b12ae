"""Checkpoints in one file: LDM, Stable Diffusion 1, 2, XL and 3 under their own names; DiT, SiT and LightningDiT."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from ldm_jax.errors import InputError
from ldm_jax.models import (
    Autoencoder,
    AutoencoderConfig,
    DiT,
    DiTConfig,
    MMDiT,
    MMDiTConfig,
    T5Config,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
    UNet,
    UNetConfig,
    VQAutoencoder,
    VQConfig,
)
from ldm_jax.models.dit import sincos_positions
from ldm_jax.pretrained.folders import open_file
from ldm_jax.pretrained.names import Numbers, Table, sources
from ldm_jax.pretrained.parts import Opened, published_tensors, read_params
from ldm_jax.pretrained.tables import compvis, stability
from ldm_jax.pretrained.tables.t5 import T5_DERIVED, T5_TABLE
from ldm_jax.pretrained.tables.text import CLIP, CLIP_DERIVED
from ldm_jax.pretrained.tables.transformers import original_config, original_table
from ldm_jax.pretrained.tables.unet import PublishedUNetConfig
from ldm_jax.pretrained.tensors import Info, Renamed, Tensors
from ldm_jax.pretrained.writing import write_safetensors

log = logging.getLogger("ldm_jax")


class Section(NamedTuple):
    """A part of a single file: the prefix of its names, and how its network follows from them."""

    prefix: str
    part: str
    """The folder that diffusers has it in."""
    config: Callable[[Mapping[str, Info]], Any]
    table: Callable[[Any], Table]
    derived: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """Names that may be left over, as regular expressions."""
    remade: Callable[[Tensors, Any], Tensors] = lambda tensors, config: tensors
    """The tensors as the table names them."""
    fits: Callable[[Mapping[str, Info]], bool] = bool
    """Whether names, without the prefix, are this part's."""


MODULES: dict[type, type[nn.Module]] = {
    UNetConfig: UNet,
    PublishedUNetConfig: UNet,
    MMDiTConfig: MMDiT,
    AutoencoderConfig: Autoencoder,
    VQConfig: VQAutoencoder,
    TextEncoderConfig: TextEncoder,
    T5Config: T5Encoder,
}


def numbers_of(config: Any) -> Numbers:
    """What a table needs to know of a config."""
    levels = len(getattr(config, "multipliers", ())) or len(getattr(config, "channels", ())) or 1
    return Numbers(levels=levels, patch=getattr(config, "patch", 1))


def open_section(section: Section, tensors: Tensors, where: str) -> Opened:
    """The network of one section; tensors under its names without the prefix."""
    config = section.config(tensors.info)
    module = MODULES[type(config)](config)  # type: ignore[call-arg]
    wanted = sources(module, section.table(config), numbers_of(config))
    return Opened(module, section.remade(tensors, config), wanted, section.derived(config), where)


def _sd2_config(info: Mapping[str, Info]) -> TextEncoderConfig:
    """SD 2 conditions on the states before OpenCLIP's last block, so that block and the projection are left out."""
    config = compvis.open_clip_config(info)
    return dataclasses.replace(config, depth=config.depth - 1, projection=0)


def _sd2_derived(config: TextEncoderConfig) -> tuple[str, ...]:
    return (*compvis.OPEN_CLIP_DERIVED, rf"transformer\.resblocks\.{config.depth}\..*", "text_projection")


OPENAI_CLIP = (compvis.clip_config, lambda config: CLIP, lambda config: CLIP_DERIVED)
SD3_CLIP = (stability.projected_clip_config, stability.projected_clip_table, lambda config: CLIP_DERIVED)
SECTIONS = (
    Section(
        "model.diffusion_model.",
        "unet",
        compvis.unet_config,
        compvis.unet_table,
        remade=compvis.unet_tensors,
        fits=lambda info: "input_blocks.0.0.weight" in info,
    ),
    Section(
        "model.diffusion_model.",
        "transformer",
        stability.mmdit_config,
        lambda config: stability.MMDIT,
        remade=stability.mmdit_tensors,
        fits=stability.is_mmdit,
    ),
    Section(
        "first_stage_model.",
        "vae",
        compvis.first_stage_config,
        lambda config: compvis.FIRST_STAGE,
        lambda config: (r"loss\..*",),
    ),
    Section("cond_stage_model.transformer.", "text_encoder", *OPENAI_CLIP),
    Section(
        "cond_stage_model.model.",
        "text_encoder",
        _sd2_config,
        lambda config: compvis.OPEN_CLIP,
        _sd2_derived,
    ),
    Section("conditioner.embedders.0.transformer.", "text_encoder", *OPENAI_CLIP),
    Section(
        "conditioner.embedders.1.model.",
        "text_encoder_2",
        compvis.open_clip_config,
        lambda config: compvis.OPEN_CLIP,
        lambda config: compvis.OPEN_CLIP_DERIVED,
    ),
    # SDXL's refiner has OpenCLIP alone.
    Section(
        "conditioner.embedders.0.model.",
        "text_encoder_2",
        compvis.open_clip_config,
        lambda config: compvis.OPEN_CLIP,
        lambda config: compvis.OPEN_CLIP_DERIVED,
    ),
    Section("text_encoders.clip_l.transformer.", "text_encoder", *SD3_CLIP),
    Section("text_encoders.clip_g.transformer.", "text_encoder_2", *SD3_CLIP),
    Section(
        "text_encoders.t5xxl.transformer.",
        "text_encoder_3",
        stability.t5_config,
        lambda config: T5_TABLE,
        lambda config: T5_DERIVED,
    ),
)
BARE = (
    SECTIONS[0]._replace(prefix=""),
    SECTIONS[1]._replace(prefix=""),
    SECTIONS[2]._replace(
        prefix="", fits=lambda info: {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= info.keys()
    ),
)
"""One network alone under the same names: a UNet, an MMDiT, a first stage (vae-ft-mse, sdxl_vae, kl-f8)."""
DERIVED = (
    r"model_ema\..*",
    r"(sqrt_|posterior_|log_)?(one_minus_|recip_|recipm1_|mean_|variance|log_)*"
    r"(betas|alphas_cumprod(_prev)?|coef[12]|clipped)",
    r"posterior_.*|sqrt_.*|log_one_minus_alphas_cumprod|lvlb_weights|logvar|scale_factor|denoiser\.sigmas",
    r"(model\.)?model_sampling\.sigmas|text_encoders\.clip_[lg]\.logit_scale",
)
"""Schedule tables and a second set of averaged weights, which LDM's checkpoints hold beside the networks."""
ORIGINAL_DERIVED = (r"pos_embed", r"feat_rope\.freqs_(cos|sin)")
"""Positions that follow from the config."""


def _strip(tensors: Tensors, prefix: str) -> Tensors:
    names = {name.removeprefix(prefix): name for name in tensors.info if name.startswith(prefix)}
    return Renamed(tensors, names)


AVERAGED = "model_ema."
"""LDM's averages, whose names are those of the weights without their dots."""


def _chosen(tensors: Tensors, ema: bool, path: Path) -> Tensors:
    """The weights that are wanted, where a file holds those in training and their averages; one line says which."""
    names = tensors.info
    averages = {name: AVERAGED + name.removeprefix("model.").replace(".", "") for name in names}
    averages = {name: average for name, average in averages.items() if name.startswith("model.") and average in names}
    if averages:
        _say(path, ema)
        lacking = [name for name in names if name.startswith("model.diffusion_model.") and name not in averages]
        if lacking and ema:
            raise InputError(f"model: {path} has no average of {lacking[0]}, but of others; ema must be False")
        return Renamed(tensors, {name: averages.get(name, name) for name in names}) if ema else tensors
    inside = [wrapper for wrapper in ("ema.", "model.") if any(name.startswith(wrapper) for name in names)]
    if inside == ["ema.", "model."] and not any(name.startswith("model.diffusion_model.") for name in names):
        _say(path, ema)
        return _strip(tensors, "ema." if ema else "model.")
    return tensors


def _say(path: Path, ema: bool) -> None:
    which, other = ("averages", "the weights in training") if ema else ("the weights in training", "averages")
    log.warning("%s holds %s, too: %s are taken (ema=%s)", path, other, which, ema)


def open_single(path: str | Path, heads: int | None = None, ema: bool = True) -> dict[str, Opened]:
    """The networks in one file, by the name of the folder that diffusers would have them in; nothing is read yet.

    heads: attention heads of a DiT whose width is not one of the published ones. ema: averages where the file holds
    them beside the weights in training, those otherwise.
    """
    path = Path(path)
    tensors = open_file(path)
    for wrapper in ("state_dict.", "", "ema.", "model.module.", "module."):
        if not wrapper:
            tensors = _chosen(tensors, ema, path)
            continue
        inside = any(name.startswith(wrapper) for name in tensors.info)
        if inside and not any(name.startswith("model.diffusion_model.") for name in tensors.info):
            tensors = _strip(tensors, wrapper)
    if "x_embedder.proj.weight" in tensors.info and "final_layer.linear.weight" in tensors.info:
        config = original_config(tensors.info, heads)
        module = DiT(config)
        wanted = sources(module, original_table(config), Numbers(patch=config.patch))
        return {"transformer": Opened(module, tensors, wanted, ORIGINAL_DERIVED, str(path))}
    parts: dict[str, Opened] = {}
    for section in BARE:
        if section.fits(tensors.info):
            opened = open_section(section, tensors, str(path))
            return {section.part: opened._replace(derived=(*opened.derived, *DERIVED))}
    for section in SECTIONS:
        own = _strip(tensors, section.prefix)
        if section.fits(own.info):
            parts[section.part] = open_section(section, own, f"{path} ({section.prefix[:-1]})")
    prefixes = tuple(section.prefix for section in SECTIONS)
    denoiser = _strip(tensors, "model.diffusion_model.").info
    if denoiser and not {"unet", "transformer"} & parts.keys():
        raise InputError(f"model: {path} has a denoiser that is not known; it holds {min(denoiser)}")
    if not parts:
        first = min(tensors.info, default="nothing")
        raise InputError(f"model: {path} is no checkpoint that is known; it holds {first}")
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
    ema: bool = True,
) -> dict[str, tuple[nn.Module, Any]]:
    """{part: (module, params)} of a single-file checkpoint; see `load_part` and `open_single` for the keywords."""
    opened = open_single(path, heads, ema)
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
        context_dim=0,
        pooled_dim=0,
    )
