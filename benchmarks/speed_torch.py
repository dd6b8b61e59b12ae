"""The half of benchmarks/speed.py that runs in a Python with PyTorch and diffusers; see there.

python benchmarks/speed_torch.py save FOLDER       writes the three networks, with random weights
python benchmarks/speed_torch.py time FOLDER       answers `NETWORK ACTION` on stdin with seconds on stdout
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from speed import GUIDANCE, STEPS


def networks() -> dict[str, torch.nn.Module]:
    """DiT of 64 tokens, a UNet of 16 x 16 latents, a KL autoencoder of 64 px."""
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=64, in_channels=4, out_channels=4, num_layers=6, sample_size=16,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    unet = UNet2DModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 128, 256), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), norm_num_groups=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        sample_size=64, latent_channels=4, block_out_channels=(32, 64, 128), layers_per_block=2, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    # DiT's last layer and modulations begin at zero, and outputs of zero compare with anything.
    for parameter in dit.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    return {"dit": dit, "unet": unet, "vae": vae}


def inputs(folder: Path) -> dict[str, torch.Tensor]:
    """The arrays that both halves see, channels second."""
    with np.load(folder / "inputs.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    return {name: x.movedim(-1, 1).contiguous() if x.ndim == 4 else x for name, x in found.items()}


def actions(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """NETWORK ACTION -> what is timed; it returns an array that both halves should have alike."""
    given = inputs(folder)
    classes = {"dit": DiTTransformer2DModel, "unet": UNet2DModel, "vae": AutoencoderKL}
    nets = {name: kind.from_pretrained(folder / name) for name, kind in classes.items()}
    dit, unet, vae = nets["dit"].eval(), nets["unet"], nets["vae"]
    # Trained ones apart, so that the others' outputs stay comparable.
    own = {name: copy.deepcopy(net) for name, net in nets.items()}

    def training(net: torch.nn.Module, output: Callable[[], torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """One step of AdamW."""
        loss = torch.nn.functional.mse_loss(output(), target)
        loss.backward()
        optimizers[net].step()
        optimizers[net].zero_grad(set_to_none=True)
        return loss.detach()

    optimizers = {net: torch.optim.AdamW(net.parameters(), lr=1e-5) for net in own.values()}
    t, z, x, labels = given["t"], given["z"], given["x"], given["labels"]

    def draw() -> torch.Tensor:
        scheduler = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
        scheduler.set_timesteps(STEPS)
        state, both = z, torch.cat([labels, torch.full_like(labels, 10)])
        for step in scheduler.timesteps:
            told, untold = dit(torch.cat([state, state]), step.expand(2 * len(z)), both).sample.chunk(2)
            state = scheduler.step(untold + GUIDANCE * (told - untold), step, state).prev_sample
        return state

    def still(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        return torch.no_grad()(function)

    return {
        "dit forward": still(lambda: dit(z, t, labels).sample),
        "dit training": lambda: training(own["dit"], lambda: own["dit"](z, t, labels).sample, given["noise"]),
        "dit sampling": still(draw),
        "unet forward": still(lambda: unet(z, t).sample),
        "unet training": lambda: training(own["unet"], lambda: own["unet"](z, t).sample, given["noise"]),
        "vae forward": still(lambda: vae(x).sample),
        "vae decode": still(lambda: vae.decode(z[: len(x)]).sample),
        "vae training": lambda: training(own["vae"], lambda: own["vae"](x).sample, x),
    }


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "save":
        for name, net in networks().items():
            net.save_pretrained(folder / name)
        return
    torch.set_num_threads(int(sys.argv[3]))
    todo = actions(folder)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        found = todo[line.strip()]()
        seconds = time.perf_counter() - start
        mean = float(found.square().mean() if found.ndim else found)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mean": mean, "memory": memory}), flush=True)


if __name__ == "__main__":
    main()
