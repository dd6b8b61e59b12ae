"""First stages side by side: what perceptual and adversarial losses, codebooks, latent channels and the KL weight do.

    python benchmarks/autoencoders.py SUITE [--emoji FOLDER] [--workdir runs/autoencoders] [--only NAME ...]

SUITE: fashion (with and without the game, 32 px), emoji (the same at 64 px in colour; FOLDER is made by
benchmarks/emoji.py), quantized (VQ, FSQ), latents (how many channels), kl (which weight). Test images that training
never sees are reconstructed and compared: PSNR, SSIM, LPIPS by VGG16 (which some of the runs are trained on) and by
AlexNet (which none is). latents and kl also train a denoiser on each first stage and draw samples, for the two pull in
different directions: rFD is FD-EffNet of reconstructions, gFD that of samples, both against the test images.
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
from ldm_jax.config import Config, LossConfig, load_config
from ldm_jax.data import Loader, open_source, to_uint8
from ldm_jax.evaluation import reconstruction, statistics
from ldm_jax.models import AutoencoderConfig, DiscriminatorConfig, FSQConfig, VQConfig, apply
from ldm_jax.pretrained.features import open_features
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.runtime import configure
from ldm_jax.training.run import Run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "autoencoders.json"
PLAIN = LossConfig(reconstruction="l1", kl_weight=1e-6)
# Features of a classifier tell little about images that are noise, so all runs go on from a short plain one.
START = "start, plain"
SEEDS = (0, 1, 2)


def base(source: str, size: int, batch: int, steps: int, autoencoder: AutoencoderConfig) -> Config:
    """The quickstart with another first stage, small batches and few steps, for VGG16 costs ten times the rest."""
    config = load_config(ROOT / "configs" / "quickstart.py")
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source, image_size=size, batch_size=batch),
        autoencoder=autoencoder,
        autoencoder_loss=PLAIN,
        discriminator=DiscriminatorConfig(channels=32, layers=3),
        autoencoder_training=dataclasses.replace(
            config.autoencoder_training, steps=steps, log_every=10, sample_every=steps, checkpoint_every=steps
        ),
    )


def flipped(config: Config, learning_rate: float) -> Config:
    """The same with half of the images mirrored, and another peak rate of the autoencoder's."""
    training = dataclasses.replace(config.autoencoder_training, learning_rate=learning_rate)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, flip=True), autoencoder_training=training)


def game(
    config: Config, start: Config, folder: Path, weight: float, adversarial: float, again: float = 0.0
) -> dict[str, Config]:
    """A plain start, and from it the same number of steps with each loss; weight: of LPIPS.

    again: as many steps more, with this weight of LPIPS.
    """
    perceptual = dataclasses.replace(PLAIN, perceptual_weight=weight)
    whole = dataclasses.replace(perceptual, adversarial_weight=adversarial, adversarial_start=200, lecam_weight=0.1)

    def on(loss: LossConfig, seed: int = 0, run: str = START) -> Config:
        before = str(folder / name_of(run))
        return dataclasses.replace(config, autoencoder_from=before, autoencoder_loss=loss, seed=seed)

    named = {START: start, "plain": on(PLAIN), "perceptual": on(perceptual)}
    named |= {f"perceptual + adversarial, seed {seed}": on(whole, seed) for seed in SEEDS}
    if again:
        played = "perceptual + adversarial, seed 0"
        harder = dataclasses.replace(whole, perceptual_weight=again)
        named |= {"plain, again": on(PLAIN, run="plain"), f"{played}, again": on(harder, run=played)}
    return named


def name_of(run: str) -> str:
    """A run's folder."""
    return "_".join(re.findall(r"[\w.]+", run))


def suites(emoji: str, workdir: Path) -> dict[str, dict[str, Config]]:
    """The experiments of each suite by name."""
    small: Any = {"channels": 64, "stem": 4, "groups": 16, "attention": False}
    grey = AutoencoderConfig(image_channels=1, multipliers=(1, 2), blocks=1, **small)
    fashion = base("bundled:fashion_mnist", 32, 8, 600, grey)
    colour = AutoencoderConfig(image_channels=3, multipliers=(1,), blocks=2, **small)
    # Three thousand pictures are few: a start until L1 gains little more, mirrored, and a lower rate from there.
    pictures = flipped(base(f"folder:{emoji}", 64, 8, 1300, colour), learning_rate=1e-3)
    long = flipped(base(f"folder:{emoji}", 64, 16, 5000, colour), learning_rate=2e-3)
    shape: Any = {"image_channels": 1, "multipliers": (1,), "blocks": 1, **small}
    longer = base("bundled:fashion_mnist", 32, 64, 400, AutoencoderConfig(**shape))
    sweep = dataclasses.replace(
        longer,
        denoiser=dataclasses.replace(longer.denoiser, width=128, depth=4, heads=2),
        denoiser_training=dataclasses.replace(longer.denoiser_training, steps=500, sample_every=500),
    )
    l2 = LossConfig(reconstruction="l2", kl_weight=5e-4)

    def latents(channels: int, weight: float) -> Config:
        autoencoder = AutoencoderConfig(**shape, latent_channels=channels)
        return dataclasses.replace(
            sweep, autoencoder=autoencoder, autoencoder_loss=dataclasses.replace(l2, kl_weight=weight)
        )

    return {
        "fashion": game(fashion, fashion, workdir / "fashion", 0.8, 0.05),
        "emoji": game(pictures, long, workdir / "emoji", 2.0, 0.1, again=5.0),
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


def frechet(images: np.ndarray, others: np.ndarray) -> float:
    """FD-EffNet of two sets of images uint8 [n h w c]."""
    space = open_features("effnet")
    extract = jax.jit(lambda x: space.extract(x)["pool"])
    both = [statistics.moments(batched(extract, x)).gaussian for x in (images, others)]
    return float(statistics.frechet_distance(*both))


def judge(workdir: Path, config: Config, second_stage: bool) -> dict[str, Any]:
    """What a finished run's first stage (and its samples) are worth."""
    model, x = ldm_jax.load(workdir), held_out(config)
    y = batched(lambda images: model.decode(model.encode(images)), x)
    compare = partial(batched, size=50)
    numbers: dict[str, Any] = {}
    for name, metric in {"psnr": reconstruction.psnr, "ssim": reconstruction.ssim}.items():
        numbers[name] = compare(jax.jit(partial(metric, data_range=2.0)), x, y).mean()
    for network in ("vgg16", "alexnet"):
        module, params = load_lpips(network)
        params = jax.device_put(params)
        numbers[f"lpips_{network}"] = compare(jax.jit(partial(apply, module, params)), x, y).mean()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["stage"] == "autoencoder"][-1]
    for name in ("test_codes_used", "test_perplexity", "kl", "logits_real", "logits_fake", "discriminator"):
        numbers |= {name: last[name]} if name in last else {}
    if second_stage:
        real, drawn = to_uint8(x), model.sample(jax.random.key(0), num=len(x))
        numbers |= {"rfd_effnet": frechet(to_uint8(y), real), "gfd_effnet": frechet(drawn, real)}
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
    parser.add_argument("--emoji", default="")
    parser.add_argument("--workdir", type=Path, default=Path("runs/autoencoders"))
    parser.add_argument("--only", nargs="+", help="names of single runs")
    options = parser.parse_args()
    configure()
    second_stage = options.suite in ("latents", "kl")
    for name, config in suites(options.emoji, options.workdir)[options.suite].items():
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
