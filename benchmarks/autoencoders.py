"""First stages side by side: what perceptual and adversarial losses, codebooks, latent channels and the KL weight do.

    python benchmarks/autoencoders.py SUITE [--folder FOLDER] [--workdir runs/autoencoders] [--only NAME ...]

SUITE: fashion (with and without adversarial training, 32 px), emoji and stamps (the same at 64 px in colour; FOLDER is
made by benchmarks/emoji.py or benchmarks/stamps.py), quantized (VQ, FSQ), latents (how many channels), kl (which
weight). Test images that training never sees are reconstructed and compared: PSNR, SSIM, LPIPS by VGG16 and by AlexNet
(a run's name says which of them it is trained on; where it doesn't, VGG16), and what nothing is trained on,
EfficientNet-Lite0's features: their Fréchet distance from the test images (rFD), and how far each image's are from its
own (cosine). latents and kl also train a denoiser on each first stage and draw samples, for the two pull in different
directions: gFD is the Fréchet distance of samples.
Results are kept in benchmarks/results/autoencoders.json; a run that is there, or was begun, is not begun again.
"""

import argparse
import dataclasses
import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ldm_jax
from ldm_jax.config import Config, Pretrained
from ldm_jax.configfile import load_config
from ldm_jax.data import Loader, open_source, to_uint8
from ldm_jax.experiment import Run
from ldm_jax.metrics import reconstruction, statistics
from ldm_jax.models import AutoencoderConfig, DiscriminatorConfig, FSQConfig, VQConfig, apply
from ldm_jax.pretrained.features import open_features
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.runtime import configure
from ldm_jax.stages import AutoencoderLoss

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "autoencoders.json"
PLAIN = AutoencoderLoss(reconstruction="l1", kl_weight=1e-6)
# Features of a classifier tell little about images that are noise, so all runs go on from a plain one.
START = "start, plain"
BOTH = "perceptual + adversarial"
BY_TWO = "perceptual by VGG16 and AlexNet + adversarial"
SEEDS = (0, 1, 2)


def base(source: str, size: int, batch: int, steps: int, autoencoder: AutoencoderConfig) -> Config:
    """The quickstart with another first stage, small batches and few steps, for VGG16 costs ten times the rest."""
    config = load_config(ROOT / "configs" / "quickstart.py")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source, image_size=size, batch_size=batch),
        autoencoder=autoencoder,
    ).with_stages(
        autoencoder={
            "loss": PLAIN,
            "discriminator": DiscriminatorConfig(channels=32, layers=3),
            "steps": steps,
            "log_every": 10,
            "sample_every": steps,
            "checkpoint_every": steps,
        }
    )


def pictures(source: str, network: AutoencoderConfig, batch: int, steps: int, learning_rate: float) -> Config:
    """A run on 64 px in colour, half of the images mirrored, with its own peak rate."""
    config = base(source, 64, batch, steps, network)
    config = config.with_stages(autoencoder={"learning_rate": learning_rate})
    return dataclasses.replace(config, data=dataclasses.replace(config.data, flip=True))


def after(config: Config, folder: Path, run: str, loss: AutoencoderLoss, seed: int = 0) -> Config:
    """config with another loss, going on from the first stage of another run of the suite."""
    start = dataclasses.replace(config, autoencoder=Pretrained(str(folder / name_of(run))), seed=seed)
    return start.with_stages(autoencoder={"loss": loss})


def perceptual(weight: float, network: Any = "vgg16") -> AutoencoderLoss:
    """The plain loss and LPIPS."""
    return dataclasses.replace(PLAIN, perceptual=network, perceptual_weight=weight)


def adversarial(loss: AutoencoderLoss, weight: float, start: int = 200) -> AutoencoderLoss:
    """A loss with the discriminator's, which the generator sees from step `start` on."""
    return dataclasses.replace(loss, adversarial_weight=weight, adversarial_start=start, lecam_weight=0.1)


def fashion(config: Config, folder: Path) -> dict[str, Config]:
    """A plain start, and from it as many steps with each loss."""
    both = adversarial(perceptual(0.8), 0.05)
    named = {START: config, "plain": after(config, folder, START, PLAIN)}
    named |= {"perceptual": after(config, folder, START, perceptual(0.8))}
    return named | {f"{BOTH}, seed {seed}": after(config, folder, START, both, seed) for seed in SEEDS}


def emoji(source: str, network: AutoencoderConfig, folder: Path) -> dict[str, Config]:
    """A long plain start, then each loss, and once more with a heavier LPIPS. AlexNet costs a tenth of VGG16."""
    # Three thousand pictures are few: a start until L1 gains little more, mirrored, and a lower rate from there.
    start = pictures(source, network, 16, 5000, 2e-3)
    config = pictures(source, network, 8, 1300, 1e-3)
    gentle = pictures(source, network, 8, 1300, 5e-4)
    cheap = pictures(source, network, 16, 600, 1e-3)
    both = adversarial(perceptual(2.0), 0.1)
    by_two = adversarial(perceptual(2.0, "both"), 0.1)
    first = f"{BOTH}, seed 0"
    return {
        START: start,
        "plain": after(config, folder, START, PLAIN),
        "perceptual": after(config, folder, START, perceptual(2.0)),
        "perceptual by AlexNet": after(cheap, folder, START, perceptual(1.0, "alexnet")),
        first: after(config, folder, START, both),
        **{f"{BY_TWO}, seed {seed}": after(config, folder, START, by_two, seed) for seed in SEEDS},
        f"{BOTH}, half the rate": after(gentle, folder, START, both),
        "plain, again": after(config, folder, "plain", PLAIN),
        f"{first}, again": after(config, folder, first, adversarial(perceptual(5.0), 0.1)),
    }


def stamps(source: str, network: AutoencoderConfig, folder: Path) -> dict[str, Config]:
    """A plain start, then adversarial training alone, which costs little, then with LPIPS; and as many plain steps."""
    start = pictures(source, network, 16, 3000, 2e-3)
    cheap = pictures(source, network, 16, 1500, 1e-3)
    dear = pictures(source, network, 8, 1000, 5e-4)
    named = {START: start}
    for seed in SEEDS:
        played = f"adversarial, seed {seed}"
        named[played] = after(cheap, folder, START, adversarial(PLAIN, 0.5, 375), seed)
        named[f"{BOTH}, seed {seed}"] = after(dear, folder, played, adversarial(perceptual(2.0), 0.1), seed)
    named["plain, first"] = after(cheap, folder, START, PLAIN)
    return named | {"plain": after(dear, folder, "plain, first", PLAIN)}


def name_of(run: str) -> str:
    """A run's folder."""
    return "_".join(re.findall(r"[\w.]+", run))


def suites(folder: str, workdir: Path) -> dict[str, dict[str, Config]]:
    """The experiments of each suite by name."""
    small: Any = {"channels": 64, "stem": 4, "groups": 16, "attention": False}
    grey = AutoencoderConfig(image_channels=1, multipliers=(1, 2), blocks=1, **small)
    colour = AutoencoderConfig(image_channels=3, multipliers=(1,), blocks=2, **small)
    shape: Any = {"image_channels": 1, "multipliers": (1,), "blocks": 1, **small}
    longer = base("bundled:fashion_mnist", 32, 64, 400, AutoencoderConfig(**shape))
    sweep = dataclasses.replace(
        longer,
        denoiser=dataclasses.replace(longer.denoiser, width=128, depth=4, heads=2),
    ).with_stages(denoiser={"steps": 500, "sample_every": 500})
    l2 = AutoencoderLoss(reconstruction="l2", kl_weight=5e-4)

    def latents(channels: int, weight: float) -> Config:
        autoencoder = AutoencoderConfig(**shape, latent_channels=channels)
        loss = dataclasses.replace(l2, kl_weight=weight)
        return dataclasses.replace(sweep, autoencoder=autoencoder).with_stages(autoencoder={"loss": loss})

    return {
        "fashion": fashion(base("bundled:fashion_mnist", 32, 8, 600, grey), workdir / "fashion"),
        "emoji": emoji(f"folder:{folder}", colour, workdir / "emoji"),
        "stamps": stamps(f"folder:{folder}", colour, workdir / "stamps"),
        "quantized": {
            "VQ, 256 codes": dataclasses.replace(longer, autoencoder=VQConfig(**shape, codebook_size=256)),
            "FSQ, (8, 8, 4) = 256 codes": dataclasses.replace(
                longer, autoencoder=FSQConfig(**shape, latent_channels=3, levels=(8, 8, 4))
            ),
        },
        "latents": {f"{channels} channels": latents(channels, 5e-4) for channels in (1, 4, 16)},
        "kl": {f"KL weight {weight:g}": latents(4, weight) for weight in (1e-6, 1e-1)},
    }


def held_out(config: Config) -> np.ndarray:
    """All test images in [-1, 1] (at most 1000, the first)."""
    source = open_source(config.data.source, "test")
    channels = config.autoencoder.image_channels
    loader = Loader(source, batch_size=1, image_size=config.data.image_size, channels=channels, seed=0)
    _, images, valid = next(loader.in_order(min(len(source), 1000)))
    return images[:valid]


def batched(function: Any, *arrays: np.ndarray, size: int = 50) -> np.ndarray:
    """function over parts of the arrays; the last part is filled up, so that it is compiled once."""
    out, n = [], len(arrays[0])
    for start in range(0, n, size):
        place = np.minimum(np.arange(start, start + size), n - 1)
        out.append(np.asarray(function(*(a[place] for a in arrays)))[: n - start])
    return np.concatenate(out)


def features(images: np.ndarray) -> np.ndarray:
    """EfficientNet-Lite0's of images uint8 [n h w c], [n d]."""
    space = open_features("effnet")
    return batched(jax.jit(lambda x: space.extract(x)["pool"]), images)


def frechet(features: np.ndarray, others: np.ndarray) -> float:
    """The Fréchet distance of two sets of features."""
    return float(statistics.frechet_distance(*(statistics.moments(f).gaussian for f in (features, others))))


def cosine_distance(features: np.ndarray, others: np.ndarray) -> float:
    """1 - the cosine between each image's features and its counterpart's, their mean."""
    unit, other = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (features, others))
    return float((1.0 - (unit * other).sum(axis=1)).mean())


def judge(workdir: Path, config: Config, second_stage: bool) -> dict[str, Any]:
    """What a finished run's first stage (and its samples) are worth."""
    model, x = ldm_jax.load(workdir), held_out(config)
    y = batched(lambda images: model.decode(model.encode(images)), x)
    numbers: dict[str, Any] = {}
    for name, metric in {"psnr": reconstruction.psnr, "ssim": reconstruction.ssim}.items():
        numbers[name] = batched(jax.jit(partial(metric, data_range=2.0)), x, y).mean()
    for network in ("vgg16", "alexnet"):
        module, params = load_lpips(network)
        params = jax.device_put(params)
        numbers[f"lpips_{network}"] = batched(jax.jit(partial(apply, module, params)), x, y).mean()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == "autoencoder"][-1]
    for name in ("test_codes_used", "test_perplexity", "kl", "logits_real", "logits_fake", "discriminator"):
        numbers |= {name: last[name]} if name in last else {}
    real, reconstructed = features(to_uint8(x)), features(to_uint8(y))
    numbers |= {"rfd_effnet": frechet(reconstructed, real), "cosine_effnet": cosine_distance(reconstructed, real)}
    if second_stage:
        numbers["gfd_effnet"] = frechet(features(model.sample(jax.random.key(0), num=len(x))), real)
    return {name: round(float(value), 4) for name, value in numbers.items()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of one suite's results."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row if not name.startswith("logits")))
    lines = [f"| run | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(str(row.get(c, '')) for c in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def kept() -> dict[str, Any]:
    """Results so far, by suite and run."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=tuple(suites("", Path())))
    parser.add_argument("--folder", default="", help="the pictures of emoji or stamps")
    parser.add_argument("--workdir", type=Path, default=Path("runs/autoencoders"))
    parser.add_argument("--only", nargs="+", help="names of single runs")
    options = parser.parse_args()
    configure()
    second_stage = options.suite in ("latents", "kl")
    for name, config in suites(options.folder, options.workdir)[options.suite].items():
        if name in kept().get(options.suite, {}) or (options.only and name not in options.only):
            continue
        workdir = options.workdir / options.suite / name_of(name)
        start = time.monotonic()
        Run(config, workdir).train("all" if second_stage else "autoencoder")
        minutes = (time.monotonic() - start) / 60
        found = {**judge(workdir, config, second_stage), "minutes": round(minutes, 1)}
        # Read anew: another suite may have written meanwhile.
        results = kept()
        results.setdefault(options.suite, {})[name] = found
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        print(name, json.dumps(found), flush=True)
    print(table(kept()[options.suite]))


if __name__ == "__main__":
    main()
