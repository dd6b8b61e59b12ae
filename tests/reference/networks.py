"""Tiny published models with weights that need no storing: what makes the references, and what checks our files.

Runs in an environment with PyTorch (CPU), diffusers and transformers; nothing here is imported by the library.

    python tests/reference/networks.py make                 writes tests/reference/networks/*.npz
    python tests/reference/networks.py save NAME FOLDER     saves one model as its own library does
    python tests/reference/networks.py check NAME FOLDER    loads our folder strictly, compares tensors and outputs

Weights are numpy's RandomState seeded by each tensor's name, so a reference holds the config, names and shapes, inputs
and outputs alone: a few kilobytes. Every model sees two sizes, each with an odd batch.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "networks"


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights that a tensor of this name has in every reference: float32, about as large as trained ones."""
    # transformers 5 names CLIP's tensors without the prefix in memory and with it in files.
    name = name.removeprefix("text_model.")
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    scale = 0.1 if len(shape) < 2 else 0.8 / np.sqrt(fan_in) if "embed" not in name else 0.3
    one = len(shape) == 1 and name.endswith("weight")
    return (values * scale + (1.0 if one else 0.0)).astype(np.float32)


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs, standard normal."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def models():
    """Name -> (constructor of the model, function of the model that gives inputs and outputs)."""
    import torch
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DiTTransformer2DModel,
        LatentConsistencyModelPipeline,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
        VQModel,
    )
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import (
        BertConfig,
        BertModel,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )

    def tensor(x):
        return torch.from_numpy(np.ascontiguousarray(x))

    def last(x):
        """NCHW tensor to channels-last array."""
        return np.moveaxis(x.detach().numpy(), 1, -1)

    def autoencoder(channels, latents, factor=4):
        def run(model):
            data = {}
            for i, (h, w) in enumerate(((16, 16), (24, 8))):
                x, z = noise(f"x{i}", (3, channels, h, w)), noise(f"z{i}", (3, latents, h // factor, w // factor))
                encoded = model.encode(tensor(x))
                if hasattr(encoded, "latent_dist"):
                    data[f"{i}/logvar"] = last(encoded.latent_dist.logvar)
                    encoded = encoded.latent_dist.mean
                else:
                    encoded = encoded.latents
                data |= {f"{i}/x": np.moveaxis(x, 1, -1), f"{i}/encoded": last(encoded)}
                data |= {f"{i}/z": np.moveaxis(z, 1, -1), f"{i}/decoded": last(model.decode(tensor(z)).sample)}
            return data

        return run

    def denoiser(sizes=((8, 8), (12, 8)), batch=3, context=0, pooled=0, time_ids=0, labels=0, guidance=0, call=None):
        def run(model):
            data = {}
            for i, (h, w) in enumerate(sizes):
                z = noise(f"z{i}", (batch, model.config.in_channels, h, w))
                t = np.array([999, 500, 1])[:batch] if i == 0 else np.array([0, 7, 250])[:batch]
                data |= {f"{i}/z": np.moveaxis(z, 1, -1), f"{i}/t": t}
                inputs = {}
                if context:
                    inputs["encoder_hidden_states"] = data[f"{i}/context"] = noise(f"c{i}", (batch, 5 + i, context))
                if labels:
                    inputs["class_labels"] = data[f"{i}/label"] = np.array([0, labels - 1, 3])[:batch]
                if guidance:
                    scales = data[f"{i}/guidance"] = np.array([1.0, 4.0, 8.5], np.float32)[:batch]
                    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
                    inputs["timestep_cond"] = embed(None, tensor(scales - 1), embedding_dim=guidance).numpy()
                added = {}
                if pooled:
                    added["text_embeds"] = data[f"{i}/pooled"] = noise(f"p{i}", (batch, pooled))
                if time_ids:
                    ids = np.abs(noise(f"t{i}", (batch, time_ids)) * 500).round()
                    added["time_ids"] = data[f"{i}/time_ids"] = ids
                inputs = {key: tensor(value) for key, value in inputs.items()}
                added = {key: tensor(value) for key, value in added.items()}
                if added and time_ids:
                    inputs["added_cond_kwargs"] = added
                elif added:
                    inputs["pooled_projections"] = added["text_embeds"]
                data[f"{i}/output"] = last(model(tensor(z), timestep=tensor(t), **inputs).sample)
            return data

        return run

    def text(vocabulary, end, masked=False):
        def run(model):
            data = {}
            for i, length in enumerate((7, 11)):
                ids = np.random.RandomState(i).randint(3, vocabulary - 2, (3, length))
                ids[:, 0] = 1
                for row, place in enumerate((length - 1, 3, length - 3)):
                    ids[row, place:] = end
                inputs = {"input_ids": tensor(ids)}
                if masked:
                    mask = np.ones_like(ids)
                    mask[1, 4:] = 0
                    inputs["attention_mask"] = tensor(mask)
                    data[f"{i}/mask"] = mask.astype(bool)
                out = model(**inputs, output_hidden_states=True)
                states = [s.detach().numpy() for s in out.hidden_states]
                tokens = out.last_hidden_state.detach().numpy()
                data |= {f"{i}/ids": ids.astype(np.int32), f"{i}/tokens": tokens}
                data[f"{i}/states"] = np.stack(states)
                pooled = getattr(out, "text_embeds", None)
                pooled = getattr(out, "pooler_output", None) if pooled is None else pooled
                if pooled is not None:
                    data[f"{i}/pooled"] = pooled.detach().numpy()
            return data

        return run

    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 16, 16],
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    unet = {
        "block_out_channels": [8, 16],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "layers_per_block": 1,
    }
    clip = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
    }
    dit = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 10}
    sd3 = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 8,
    }
    # A DiT of diffusers takes square latents alone.
    square = ((8, 8), (12, 12))
    return {
        "vae_sd": (lambda: AutoencoderKL(latent_channels=4, **vae), autoencoder(3, 4)),
        "vae_sd3": (
            lambda: AutoencoderKL(
                latent_channels=6, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, **vae
            ),
            autoencoder(3, 6),
        ),
        "vq": (lambda: VQModel(latent_channels=3, num_vq_embeddings=24, **vae), autoencoder(3, 3)),
        "vq_attention": (
            lambda: VQModel(
                latent_channels=4,
                vq_embed_dim=5,
                num_vq_embeddings=24,
                **(
                    vae
                    | {"down_block_types": ["DownEncoderBlock2D"] * 2 + ["AttnDownEncoderBlock2D"]}
                    | {"up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2}
                ),
            ),
            autoencoder(3, 5),
        ),
        "tiny": (
            lambda: AutoencoderTiny(
                latent_channels=4,
                encoder_block_out_channels=[8] * 3,
                decoder_block_out_channels=[8] * 3,
                num_encoder_blocks=[1, 2, 1],
                num_decoder_blocks=[2, 1, 1],
            ),
            autoencoder(3, 4),
        ),
        "unet_sd1": (lambda: UNet2DConditionModel(attention_head_dim=2, **unet), denoiser(context=12)),
        "unet_lcm": (
            lambda: UNet2DConditionModel(attention_head_dim=2, time_cond_proj_dim=12, **unet),
            denoiser(context=12, guidance=12),
        ),
        "unet_sd2": (
            lambda: UNet2DConditionModel(
                attention_head_dim=[2, 4], use_linear_projection=True, upcast_attention=True, **unet
            ),
            denoiser(context=12),
        ),
        "unet_sdxl": (
            lambda: UNet2DConditionModel(
                block_out_channels=[8, 16],
                down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
                up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
                transformer_layers_per_block=[1, 2],
                attention_head_dim=[2, 4],
                norm_num_groups=4,
                cross_attention_dim=12,
                layers_per_block=1,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=10 + 6 * 8,
            ),
            denoiser(context=12, pooled=10, time_ids=6),
        ),
        "unet_inpaint": (
            lambda: UNet2DConditionModel(in_channels=9, attention_head_dim=2, **unet),
            denoiser(context=12),
        ),
        "unet_upscale": (
            lambda: UNet2DConditionModel(
                in_channels=7, attention_head_dim=2, num_class_embeds=20, use_linear_projection=True, **unet
            ),
            denoiser(context=12, labels=20),
        ),
        "unet_odd": (
            lambda: UNet2DConditionModel(attention_head_dim=2, flip_sin_to_cos=False, freq_shift=1, **unet),
            denoiser(sizes=((7, 9), (5, 8)), context=12),
        ),
        "unet_ldm": (
            lambda: UNet2DModel(
                in_channels=3,
                out_channels=3,
                block_out_channels=[8, 16],
                down_block_types=["DownBlock2D", "AttnDownBlock2D"],
                up_block_types=["AttnUpBlock2D", "UpBlock2D"],
                attention_head_dim=4,
                norm_num_groups=4,
                layers_per_block=1,
            ),
            denoiser(),
        ),
        "dit": (
            lambda: DiTTransformer2DModel(in_channels=4, out_channels=8, sample_size=8, **dit),
            denoiser(sizes=square, labels=11),
        ),
        "sd3": (lambda: SD3Transformer2DModel(**sd3), denoiser(context=12, pooled=10)),
        "sd35": (
            lambda: SD3Transformer2DModel(qk_norm="rms_norm", dual_attention_layers=[0, 1], **sd3),
            denoiser(context=12, pooled=10),
        ),
        "clip": (lambda: CLIPTextModel(CLIPTextConfig(eos_token_id=2, **clip)), text(50, 49)),
        "clip_gelu": (
            lambda: CLIPTextModelWithProjection(
                CLIPTextConfig(hidden_act="gelu", eos_token_id=49, projection_dim=10, **clip)
            ),
            text(50, 49, masked=True),
        ),
        "bert": (lambda: BertModel(BertConfig(**clip)), text(50, 2, masked=True)),
        "t5": (
            lambda: T5EncoderModel(
                T5Config(
                    vocab_size=50,
                    d_model=16,
                    d_kv=4,
                    d_ff=24,
                    num_layers=2,
                    num_heads=2,
                    relative_attention_num_buckets=8,
                    relative_attention_max_distance=6,
                    feed_forward_proj="gated-gelu",
                    tie_word_embeddings=False,
                )
            ),
            text(50, 2, masked=True),
        ),
        "ldm_bert": (
            lambda: LDMBertModel(
                LDMBertConfig(
                    vocab_size=50,
                    max_position_embeddings=12,
                    encoder_layers=2,
                    encoder_ffn_dim=24,
                    encoder_attention_heads=2,
                    head_dim=4,
                    d_model=16,
                )
            ),
            text(50, 2, masked=True),
        ),
    }


def build(name: str):
    """The model of a reference with the weights that its tensors' names give."""
    import torch

    make, run = models()[name]
    model = make().eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and "pos_embed.pos_embed" not in key:
                # The published DiT has one embedder, which diffusers copies into every block.
                value.copy_(torch.from_numpy(weights(tied(key), tuple(value.shape))))
    return model, run


def tied(key: str) -> str:
    """The name that gives a tensor its weights."""
    import re

    key = re.sub(r"^encoder\.embed_tokens\.", "shared.", key)
    return re.sub(r"transformer_blocks\.\d+\.norm1\.emb\.", "transformer_blocks.0.norm1.emb.", key)


def make() -> None:
    import tempfile

    import torch
    from safetensors import safe_open

    HERE.mkdir(exist_ok=True)
    chosen = sys.argv[2:] or list(models())
    for name in chosen:
        model, run = build(name)
        if run is None:
            continue
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder, safe_serialization=True)
            config = json.loads((Path(folder) / "config.json").read_text())
            (file,) = Path(folder).glob("*.safetensors")
            with safe_open(file, "np") as opened:
                shapes = {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
                held = {f"tensor/{key}": opened.get_tensor(key) for key in shapes if "pos_embed.pos_embed" in key}
            data = run(model)
        text = json.dumps({"config": config, "shapes": shapes, "file": file.name})
        np.savez_compressed(HERE / f"{name}.npz", json=np.array(text), **data, **held)
        print(name, len(shapes), "tensors,", (HERE / f"{name}.npz").stat().st_size, "bytes")


def save() -> None:
    name, folder = sys.argv[2:]
    model, _ = build(name)
    model.save_pretrained(folder, safe_serialization=True)


def check() -> None:
    """Loads a folder of ours with the library that the architecture is from: strictly, bit for bit, same outputs."""
    import torch

    name, folder = sys.argv[2:]
    model, run = build(name)
    if hasattr(type(model), "_supports_gradient_checkpointing") and hasattr(model, "register_to_config"):
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    else:
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    trouble = {key: list(value) for key, value in info.items() if value}
    assert not trouble, trouble
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
    if run is not None:
        with torch.no_grad():
            for (key, one), two in zip(run(loaded.eval()).items(), run(model).values(), strict=True):
                assert np.array_equal(one, two), key
    print(f"{name}: {len(theirs)} tensors bit-identical, outputs equal")


if __name__ == "__main__":
    {"make": make, "save": save, "check": check}[sys.argv[1]]()
