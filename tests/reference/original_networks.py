"""What the original code of LDM and of SD3 computes, on files under its own names.

    python tests/reference/original_networks.py LDM SD3      writes tests/reference/original_networks.npz

LDM, SD3: checkouts of CompVis/latent-diffusion (a506df5) and Stability-AI/sd3.5. Needs PyTorch (CPU), transformers and
einops. Weights follow from the tensors' names, as in networks.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import networks
import numpy as np

HERE = Path(__file__).parent


def filled(model, prefix: str):
    """The model with weights from its names, and the shapes of its file."""
    import torch

    shapes = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(torch.from_numpy(networks.weights(prefix + key, tuple(value.shape))))
            shapes[prefix + key] = list(value.shape)
    return model.eval(), shapes


def last(x) -> np.ndarray:
    """NCHW tensor to channels-last array."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def ldm():
    """The unconditional UNet and the VQ first stage."""
    import torch
    from ldm.modules.diffusionmodules import openaimodel
    from ldm.modules.diffusionmodules.model import Decoder, Encoder

    # The checkpointing of activations is for training alone, and needs a GPU.
    openaimodel.checkpoint = lambda function, inputs, parameters, flag: function(*inputs)
    unet, shapes = filled(
        openaimodel.UNetModel(
            image_size=8,
            in_channels=3,
            model_channels=32,
            out_channels=3,
            num_res_blocks=1,
            attention_resolutions=[2],
            channel_mult=(1, 2),
            num_head_channels=32,
        ),
        "model.diffusion_model.",
    )
    z, t = networks.noise("z", (3, 3, 8, 8)), np.array([999, 500, 1])
    data = {"z": np.moveaxis(z, 1, -1), "t": t.astype(np.float32)}
    data["output"] = last(unet(torch.from_numpy(z), torch.from_numpy(t)))

    class FirstStage(torch.nn.Module):
        """The networks of ldm.models.autoencoder.VQModel, whose quantiser lies in another repository."""

        def __init__(self):
            super().__init__()
            settings = {"double_z": False, "z_channels": 3, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32}
            settings |= {"ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}
            self.encoder, self.decoder = Encoder(**settings), Decoder(**settings)
            self.quantize = torch.nn.Module()
            self.quantize.embedding = torch.nn.Embedding(24, 3)
            self.quant_conv, self.post_quant_conv = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)

    stage, more = filled(FirstStage(), "first_stage_model.")
    x = torch.from_numpy(networks.noise("x", (3, 3, 16, 16)))
    encoded = stage.quant_conv(stage.encoder(x))
    flat = encoded.permute(0, 2, 3, 1).reshape(-1, 3)
    nearest = torch.cdist(flat, stage.quantize.embedding.weight).argmin(1)
    codes = stage.quantize.embedding(nearest).reshape(3, 8, 8, 3).permute(0, 3, 1, 2)
    data |= {"x": last(x), "encoded": last(encoded), "decoded": last(stage.decoder(stage.post_quant_conv(codes)))}
    return data, shapes | more


def sd3(qk_norm: str | None, dual: list[int]):
    """MMDiTX with two blocks, as many heads of 64 features."""
    import torch
    from mmditx import MMDiTX

    model, shapes = filled(
        MMDiTX(
            input_size=None,
            pos_embed_max_size=6,
            num_patches=36,
            patch_size=2,
            in_channels=4,
            depth=2,
            adm_in_channels=10,
            context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 12, "out_features": 128}},
            qk_norm=qk_norm,
            x_block_self_attn_layers=dual,
        ),
        "model.diffusion_model.",
    )
    z, t = networks.noise("z", (3, 4, 8, 12)), np.array([999.0, 500.0, 1.0], np.float32)
    context, pooled = networks.noise("c", (3, 5, 12)), networks.noise("p", (3, 10))
    output = model(*map(torch.from_numpy, (z, t)), y=torch.from_numpy(pooled), context=torch.from_numpy(context))
    data = {"z": np.moveaxis(z, 1, -1), "t": t, "context": context, "pooled": pooled, "output": last(output)}
    return data, shapes


def main() -> None:
    sys.path[:0] = sys.argv[1:3]
    data = {}
    for name, (arrays, shapes) in {"ldm": ldm(), "sd3": sd3(None, []), "sd35": sd3("rms", [0])}.items():
        data |= {f"{name}/{key}": value for key, value in arrays.items()}
        data[f"{name}/shapes"] = np.array(json.dumps(shapes))
        print(name, len(shapes), "tensors, output's std", arrays["output"].std())
    path = HERE / "original_networks.npz"
    np.savez_compressed(path, **data)
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
