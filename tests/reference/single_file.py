"""Pairs of CompVis and diffusers names, as diffusers' own converters make them.

    PYTHONPATH=. python tests/reference/single_file.py names X.json   (with this library) names of tiny checkpoints
    python tests/reference/single_file.py pairs X.json   (with PyTorch, diffusers) what each becomes: single_file.npz

Every number of a checkpoint is its own: a converter's output says where each of its rows came from.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

PAIRS = Path(__file__).parent / "single_file.npz"


def checkpoints():
    """Tiny modules of each part, as (kind, section prefix, module)."""
    from ldm_jax.models import Autoencoder, AutoencoderConfig, TextEncoder, TextEncoderConfig, UNet, UNetConfig
    from ldm_jax.pretrained.tables.unet import PublishedUNetConfig

    clip = {"width": 64, "depth": 2, "heads": 1, "hidden": 96, "vocabulary": 40, "positions": 8}
    unet = {
        "time_scale": 1.0,
        "out_channels": 4,
        "channels": (64, 128),
        "blocks": 2,
        "attention": (1, 0),
        "context_dim": 12,
    }
    four = {"in_channels": 4, **unet}
    return (
        ("sd1", "model.diffusion_model.", UNet(UNetConfig(heads=(8, 8), **four))),
        ("upscale", "model.diffusion_model.", UNet(UNetConfig(heads=(8, 8), in_channels=7, class_rows=20, **unet))),
        ("sd2", "model.diffusion_model.", UNet(PublishedUNetConfig(heads=(1, 2), linear_projection=True, **four))),
        (
            "sdxl",
            "model.diffusion_model.",
            UNet(
                PublishedUNetConfig(
                    in_channels=4,
                    out_channels=4,
                    time_scale=1.0,
                    heads=(1, 2, 2),
                    channels=(64, 128, 128),
                    attention=(0, 2, 3),
                    mid_attention=3,
                    context_dim=12,
                    added_dim=1600,
                    linear_projection=True,
                )
            ),
        ),
        ("vae", "first_stage_model.", Autoencoder(AutoencoderConfig(channels=32, multipliers=(1, 2, 2)))),
        (
            "open_clip",
            "cond_stage_model.model.",
            TextEncoder(TextEncoderConfig(activation="gelu", projection=64, pad_id=0, end_id=39, start_id=38, **clip)),
        ),
    )


def names() -> None:
    from ldm_jax.pretrained.names import Numbers, sources
    from ldm_jax.pretrained.single_file import SECTIONS

    result = {}
    for kind, prefix, module in checkpoints():
        section = next(s for s in SECTIONS if s.prefix == prefix)
        config = module.config
        levels = len(getattr(config, "multipliers", ())) or len(getattr(config, "channels", ())) or 1
        wanted = sources(module, section.table(config), Numbers(levels=levels))
        shapes = {prefix + name: s.published_shape() for s in wanted.values() for name in s.names}
        result[kind] = shapes
    Path(sys.argv[2]).write_text(json.dumps(result))


def pairs() -> None:
    import torch
    from diffusers.loaders import single_file_utils as convert
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    result = {}
    for kind, shapes in json.loads(Path(sys.argv[2]).read_text()).items():
        tensors, first = {}, 0
        for name, shape in shapes.items():
            tensors[name] = torch.arange(first, first + int(np.prod(shape)), dtype=torch.float64).reshape(shape)
            first += int(np.prod(shape))
        owners = {int(value.reshape(-1)[0]): name for name, value in tensors.items()}
        if kind == "vae":
            config = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
            out = convert.convert_ldm_vae_checkpoint(dict(tensors), config)
        elif kind == "open_clip":
            model = CLIPTextModelWithProjection(
                CLIPTextConfig(
                    hidden_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=1,
                    intermediate_size=96,
                    vocab_size=40,
                    max_position_embeddings=8,
                    projection_dim=64,
                )
            )
            out = convert.convert_open_clip_checkpoint(model, dict(tensors), prefix="cond_stage_model.model.")
        else:
            levels = 3 if kind == "sdxl" else 2
            config = {
                "layers_per_block": 2,
                "class_embed_type": None,
                "num_class_embeds": 20 if kind == "upscale" else None,
                "addition_embed_type": "text_time" if kind == "sdxl" else None,
                "down_block_types": [""] * levels,
                "up_block_types": [""] * levels,
            }
            out = convert.convert_ldm_unet_checkpoint(dict(tensors), config)
        starts = sorted(owners)
        table = {}
        for name, value in out.items():
            number = int(value.reshape(-1)[0])
            begin = max(start for start in starts if start <= number)
            source = owners[begin]
            # Which row of the source the first number is from, and whether the layout was turned.
            row = (number - begin) // (int(np.prod(shapes[source][1:])) or 1) if shapes[source] else 0
            turned = value.ndim == 2 and tensors[source].ndim == 2 and value[0, 1] - value[0, 0] != 1
            table[name] = [source, row, bool(turned)]
        result[kind] = table
        print(kind, len(shapes), "->", len(out))
    np.savez_compressed(PAIRS, json=np.array(json.dumps(result)))


if __name__ == "__main__":
    {"names": names, "pairs": pairs}[sys.argv[1]]()
