"""Tiny pipelines of diffusers and the images that they draw.

Runs in an environment with PyTorch (CPU), diffusers and transformers; nothing here is imported by the library.

    python tests/reference/pipelines.py make [NAME ...]      writes tests/reference/pipelines.npz, or renews some of it
    python tests/reference/pipelines.py save NAME FOLDER     saves one pipeline as diffusers does
    python tests/reference/pipelines.py check NAME FOLDER    loads our folder with diffusers and draws the same image

Weights and latents follow from names, as in networks.py, so a reference holds configs, shapes and an image alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import networks
import numpy as np
import token_ids

HERE = Path(__file__).parent

STEPS = 5
PROMPTS = ["a photo of the cat", "cats sitting on a mat, 12 of them"]
NEGATIVE = "the spaces"


def latents(channels: int, height: int = 8, width: int = 8) -> np.ndarray:
    """The initial noise of two images, [2 c h w]."""
    return networks.noise("latents", (2, channels, height, width))


def tokenizer_files(folder: Path, pad: str, length: int = 16) -> None:
    """A CLIP tokenizer as Stable Diffusion's repositories hold it."""
    vocabulary, merges = token_ids.clip_files()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special | {"pad_token": pad}))
    settings = special | {"pad_token": pad, "model_max_length": length, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tokenizer(pad: str):
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer_files(Path(folder), pad)
        return CLIPTokenizer.from_pretrained(folder)


def bert_files(folder: Path) -> None:
    """BERT's tokenizer, as LDM's text-to-image repository holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(token_ids.bert_words()) + "\n")
    settings = {"pad_token": "[PAD]", "model_max_length": 512, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "BertTokenizer"}))


def bert_tokenizer():
    from transformers import BertTokenizer

    with tempfile.TemporaryDirectory() as folder:
        bert_files(Path(folder))
        return BertTokenizer(vocab=str(Path(folder) / "vocab.txt"))


def t5_tokenizer():
    """A few word pieces of T5's kind."""
    from transformers import T5TokenizerFast

    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        *("\u2581" + word for word in token_ids.WORDS),
        "\u2581",
        "a",
        "s",
        "t",
        "m",
        "1",
        "2",
    ]
    vocabulary = [(piece, 0.0 if i < 3 else -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def filled(model):
    """The model with weights that follow from its tensors' names."""
    import torch

    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and "pos_embed.pos_embed" not in key:
                value.copy_(torch.from_numpy(networks.weights(networks.tied(key), tuple(value.shape))))
    return model.eval()


def components(name: str):
    """The pipeline's class and its parts."""
    import diffusers
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DiTTransformer2DModel,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        LCMScheduler,
        PNDMScheduler,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
        VQModel,
    )
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    vocabulary = len(token_ids.clip_files()[0])

    def clip(projection=0, **changed):
        config = {
            "vocab_size": vocabulary,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        }
        if projection:
            config["projection_dim"] = projection
        make = CLIPTextModelWithProjection if projection else CLIPTextModel
        return filled(make(CLIPTextConfig(**config | changed)))

    stage = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "layers_per_block": 1,
    }
    small = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}
    cross = small | {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    plain = small | {
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 4,
        "out_channels": 3,
    }
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    ldm = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}
    sd = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name == "sd15":
        return diffusers.StableDiffusionPipeline, sd | {
            "vae": filled(AutoencoderKL(latent_channels=4, **stage)),
            "text_encoder": clip(),
            "tokenizer": tokenizer("<|endoftext|>"),
            "unet": filled(UNet2DConditionModel(**cross)),
            "scheduler": PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **betas),
        }
    if name == "lcm":
        return diffusers.LatentConsistencyModelPipeline, sd | {
            "vae": filled(AutoencoderKL(latent_channels=4, **stage)),
            "text_encoder": clip(),
            "tokenizer": tokenizer("<|endoftext|>"),
            "unet": filled(UNet2DConditionModel(**cross, time_cond_proj_dim=12)),
            "scheduler": LCMScheduler(**{key: value for key, value in betas.items() if key != "steps_offset"}),
        }
    if name == "sd2":
        return diffusers.StableDiffusionPipeline, sd | {
            "vae": filled(AutoencoderKL(latent_channels=4, **stage)),
            "text_encoder": clip(hidden_act="gelu", pad_token_id=0),
            "tokenizer": tokenizer("!"),
            "unet": filled(UNet2DConditionModel(**cross, use_linear_projection=True, upcast_attention=True)),
            "scheduler": DDIMScheduler(
                prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **betas
            ),
        }
    if name == "sdxl":
        unet = cross | {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2],
            "attention_head_dim": [2, 4],
            "cross_attention_dim": 32,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 10 + 6 * 8,
        }
        return diffusers.StableDiffusionXLPipeline, {
            "vae": filled(AutoencoderKL(latent_channels=4, scaling_factor=0.13025, **stage)),
            "text_encoder": clip(),
            "tokenizer": tokenizer("<|endoftext|>"),
            "text_encoder_2": clip(10, hidden_act="gelu"),
            "tokenizer_2": tokenizer("!"),
            "unet": filled(UNet2DConditionModel(**unet)),
            "scheduler": EulerDiscreteScheduler(timestep_spacing="leading", **betas),
        }
    if name in ("sd3", "sd3_t5"):
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=36,
            caption_projection_dim=16,
            pooled_projection_dim=18,
            pos_embed_max_size=8,
        )
        vae = AutoencoderKL(
            latent_channels=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            **stage,
        )
        third = {"text_encoder_3": None, "tokenizer_3": None}
        if name == "sd3_t5":
            third["tokenizer_3"] = t5_tokenizer()
            sizes = {"d_model": 36, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
            config = T5Config(vocab_size=len(third["tokenizer_3"]), feed_forward_proj="gated-gelu", **sizes)
            third["text_encoder_3"] = filled(T5EncoderModel(config))
        return diffusers.StableDiffusion3Pipeline, third | {
            "vae": filled(vae),
            "text_encoder": clip(8),
            "tokenizer": tokenizer("<|endoftext|>"),
            "text_encoder_2": clip(10, hidden_act="gelu"),
            "tokenizer_2": tokenizer("!"),
            "transformer": filled(transformer),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
    if name == "dit":
        # The pipeline's null class is 1000, whatever the network has.
        transformer = DiTTransformer2DModel(
            in_channels=4, out_channels=8, sample_size=8, num_attention_heads=2, attention_head_dim=8, num_layers=2
        )
        return diffusers.DiTPipeline, {
            "vae": filled(AutoencoderKL(latent_channels=4, **stage)),
            "transformer": filled(transformer),
            "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=True),
            "id2label": {i: f"thing {i}, stuff" for i in range(1000)},
        }
    if name == "ldm_text":
        # Its code takes an eighth of the image for the latents, whatever the first stage does.
        deep = stage | {key: [value[0]] * 4 for key, value in stage.items() if isinstance(value, list)}
        sizes = {"encoder_ffn_dim": 24, "encoder_attention_heads": 2, "head_dim": 4, "d_model": 16}
        bert = LDMBertConfig(len(token_ids.bert_words()), max_position_embeddings=77, encoder_layers=1, **sizes)
        return diffusers.LDMTextToImagePipeline, {
            "vqvae": filled(AutoencoderKL(latent_channels=4, **deep)),
            "bert": filled(LDMBertModel(bert)),
            "tokenizer": bert_tokenizer(),
            "unet": filled(UNet2DConditionModel(**cross)),
            "scheduler": DDIMScheduler(**ldm),
        }
    vqvae = filled(VQModel(latent_channels=3, num_vq_embeddings=24, scaling_factor=0.5, **stage))
    channels = 6 if name == "upscale" else 3
    unet = filled(UNet2DModel(in_channels=channels, **plain))
    parts = {"vqvae": vqvae, "unet": unet, "scheduler": DDIMScheduler(**ldm)}
    return {"ldm": diffusers.LDMPipeline, "upscale": diffusers.LDMSuperResolutionPipeline}[name], parts


NAMES = ("sd15", "lcm", "sd2", "sdxl", "sd3", "sd3_t5", "dit", "ldm", "ldm_text", "upscale")


def build(name: str):
    cls, parts = components(name)
    pipeline = cls(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(name: str, pipeline) -> np.ndarray:
    """Two images [2 h w 3] in [0, 1]."""
    import torch

    module = sys.modules[type(pipeline).__module__]
    # More steps than one would each need noise of their own.
    shared = {"num_inference_steps": 1 if name == "lcm" else STEPS, "output_type": "np"}
    if name == "lcm":
        noise = torch.from_numpy(latents(4))
        return pipeline(PROMPTS, latents=noise, guidance_scale=4.0, height=16, width=16, **shared).images
    if name.startswith("sd"):
        noise = latents(4, 8, 12 if name in ("sdxl", "sd3") else 8)
        size = {"height": 16, "width": 2 * noise.shape[-1]}
        negative = {"negative_prompt": [NEGATIVE] * 2} if name in ("sd2", "sd3") else {}
        return pipeline(
            PROMPTS, latents=torch.from_numpy(noise), guidance_scale=4.0, **size, **negative, **shared
        ).images
    if name == "ldm_text":
        given = {"latents": torch.from_numpy(latents(4)), "guidance_scale": 4.0, "height": 64, "width": 64}
        return pipeline(PROMPTS, **given, **shared).images
    noise = torch.from_numpy(latents(4 if name == "dit" else 3))
    with mock.patch.object(module, "randn_tensor", return_value=noise):
        if name == "dit":
            return pipeline(class_labels=[7, 207], guidance_scale=4.0, **shared).images
        if name == "upscale":
            return pipeline(image=torch.from_numpy(networks.noise("image", (2, 3, 8, 8))), **shared).images
        return pipeline(batch_size=2, **shared).images


def described(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """model_index and, for each part, config, shapes and file; and the tensors that names don't give."""
    from safetensors import safe_open

    index = json.loads((folder / "model_index.json").read_text())
    parts, held = {}, {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in part.glob("*.safetensors"):
            with safe_open(file, "np") as opened:
                keys = opened.keys()
                shapes = {key: list(opened.get_slice(key).get_shape()) for key in keys}
                held |= {f"{part.name}/{key}": opened.get_tensor(key) for key in keys if "pos_embed.pos_embed" in key}
            config = json.loads((part / "config.json").read_text())
            parts[part.name] = {"config": config, "shapes": shapes, "file": file.name}
        if (part / "scheduler_config.json").exists():
            parts[part.name] = json.loads((part / "scheduler_config.json").read_text())
        if part.name == "tokenizer_3":
            parts[part.name] = {"files": {path.name: path.read_text() for path in part.glob("*.json")}}
        elif (part / "tokenizer_config.json").exists():
            parts[part.name] = json.loads((part / "tokenizer_config.json").read_text())["pad_token"]
    return {"index": index, "parts": parts}, held


def make() -> None:
    names, path = sys.argv[2:], HERE / "pipelines.npz"
    data = dict(np.load(path)) if names else {}
    for name in names or NAMES:
        pipeline = build(name)
        with tempfile.TemporaryDirectory() as folder:
            pipeline.save_pretrained(folder)
            record, held = described(Path(folder))
        image = draw(name, pipeline)
        record["index"].pop("id2label", None)
        data |= {f"{name}/{key}": value for key, value in held.items()}
        data[f"{name}/json"], data[f"{name}/image"] = np.array(json.dumps(record)), image.astype(np.float32)
        inside = ((image > 0) & (image < 1)).mean()
        print(name, image.shape, f"{inside:.0%} of the values inside (0, 1), std {image.std():.3f}")
    np.savez_compressed(path, **data)
    print(path.stat().st_size, "bytes")


def save() -> None:
    name, folder = sys.argv[2:]
    build(name).save_pretrained(folder)


def check() -> None:
    """Our folder, loaded by diffusers, draws what its own pipeline draws; every tensor is bit-identical."""
    import torch
    from diffusers import DiffusionPipeline

    name, folder = sys.argv[2:]
    # diffusers wants to be told that SD3 has no T5.
    without = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
    theirs, ours = build(name), DiffusionPipeline.from_pretrained(folder, **without)
    ours.set_progress_bar_config(disable=True)
    assert type(ours) is type(theirs)
    count = 0
    for part, module in theirs.components.items():
        if isinstance(module, torch.nn.Module):
            one, two = module.state_dict(), getattr(ours, part).state_dict()
            assert one.keys() == two.keys(), part
            count += len(one)
            assert all(torch.equal(one[key], two[key]) for key in one), part
    assert (
        dict(theirs.scheduler.config).items()
        >= {key: value for key, value in ours.scheduler.config.items() if not key.startswith("_")}.items()
    )
    assert np.array_equal(draw(name, theirs), draw(name, ours))
    print(f"{name}: {count} tensors bit-identical, the same image")


if __name__ == "__main__":
    {"make": make, "save": save, "check": check}[sys.argv[1]]()
