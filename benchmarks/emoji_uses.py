"""What the models of configs/emoji.py, configs/inpainting.py and configs/super_resolution.py do on held-out emoji.

    python benchmarks/emoji_uses.py text RUN [--num 500] [--interval 0.3 1] [--out report.json] [--picture x.png]
    python benchmarks/emoji_uses.py noise RUN [--num 400] ...
    python benchmarks/emoji_uses.py inpaint RUN [--plain runs/emoji] ...
    python benchmarks/emoji_uses.py upscale RUN [--steps 4] ...

- text: for captions that training has seen, how often the drawn picture is nearest, in EfficientNet's features, to its
  own among 100 real ones (chance: 1 %); the same for held-out concepts; how far the drawn latents are from the
  picture's (root mean square). interval: the times at which guidance acts
- noise: the same of reconstructions of training pictures, with Gaussian noise on their latents: what the decoder bears
- inpaint: LPIPS (AlexNet) within random masks, 0 outside of them, of the trained model, of replacement with the model
  PLAIN (which was not trained for it, told nothing), and of the mean colour of what is kept; outside the mask the mean
  difference beside the autoencoder's own, and with --paste
- upscale: PSNR, LPIPS (AlexNet) and FD-EffNet against bicubic interpolation, and the autoencoder's own
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from reports import tell

import ldm_jax
from ldm_jax import metrics
from ldm_jax.conditions.images import averaged
from ldm_jax.conditions.masked_image import random_mask
from ldm_jax.data import annotation, open_source, prepare, to_uint8
from ldm_jax.diffusion.guidance_choices import ClassifierFree
from ldm_jax.images import grid, write_png
from ldm_jax.models import apply
from ldm_jax.pretrained.features import open_features
from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.runtime import configure
from ldm_jax.serialization import to_tree

Report = dict[str, Any]


def pictures(split: str, size: int, count: int | None = None) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """uint8 [n size size 3] and their captions, spread evenly over the split."""
    source = open_source("bundled:emoji", split)
    n = len(source)
    place = np.linspace(0, n - 1, min(count or n, n)).round().astype(int)
    images = np.stack([prepare(source[int(i)].image, size, 3) for i in place])
    return images, [annotation(source, int(i))[1] for i in place]


def batched(function: Callable[..., Any], *arrays: np.ndarray, size: int = 50) -> np.ndarray:
    """function over batches of one shape."""
    n, parts = len(arrays[0]), []
    for begin in range(0, n, size):
        place = np.minimum(np.arange(begin, begin + size), n - 1)
        parts.append(np.asarray(function(*(array[place] for array in arrays)))[: n - begin])
    return np.concatenate(parts)


def features() -> Callable[[np.ndarray], np.ndarray]:
    """EfficientNet-Lite0's pooled features [n 1280] of uint8 images."""
    extract = jax.jit(open_features("effnet", None).extract)
    return lambda images: batched(lambda x: extract(x)["pool"], images)


def lpips() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS with AlexNet [n] of two sets of uint8 images."""
    module, params = load_lpips("alexnet")
    one = jax.jit(lambda x, y: apply(module, params, *(v.astype(jnp.float32) / 127.5 - 1.0 for v in (x, y))))
    return lambda x, y: batched(one, x, y)


def rebuilt(model: ldm_jax.LatentDiffusion, images: np.ndarray) -> np.ndarray:
    """The autoencoder's reconstructions, uint8."""
    return to_uint8(batched(lambda x: model.decode(model.encode(x)), images))


def nearest(drawn: np.ndarray, own: np.ndarray, real: np.ndarray) -> float:
    """How often a drawn picture's features are nearest, by cosine, to those of its own among 100 real ones."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (drawn, own, real)]
    rng, hits = np.random.default_rng(0), 0
    for mine, right in zip(unit[0], unit[1], strict=True):
        others = unit[2][rng.permutation(len(unit[2]))]
        # 99 pictures besides its own.
        others = others[np.abs(others - right).max(axis=1) > 1e-6][:99]
        hits += bool(mine @ right > (others @ mine).max())
    return hits / len(drawn)


def framed(images: np.ndarray) -> np.ndarray:
    """The images with a red frame, which marks concepts that training has not seen."""
    images = images.copy()
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        images[edge] = (255, 0, 0)
    return images


def text(options: argparse.Namespace) -> tuple[Report, np.ndarray]:
    model, extract = ldm_jax.load(options.run), features()
    if options.interval:
        rule = ClassifierFree(interval=tuple(options.interval))
        model = dataclasses.replace(model, sampling=dataclasses.replace(model.sampling, rule=rule))
    everything = extract(pictures("train", model.image_size)[0])
    report: Report = {"guidance": options.guidance or model.sampling.guidance, "rule": to_tree(model.sampling.rule)}
    shown = []
    for split in ("train", "test"):
        images, captions = pictures(split, model.image_size, options.num)
        prompts = [names[0] for names in captions]
        how = {"guidance": options.guidance, "steps": options.steps, "batch_size": 100}
        z = model.sample(jax.random.key(0), prompts=prompts, output="latents", **how)
        drawn = to_uint8(batched(model.decode, z))
        name = "captions of training" if split == "train" else "held-out concepts"
        pool = everything if split == "train" else extract(pictures("test", model.image_size)[0])
        own = extract(images)
        report[name] = {"right": nearest(extract(drawn), own, pool), "n": len(prompts), "chance": 0.01}
        apart = np.square(z - batched(model.encode, images)).mean()
        report[name]["latents apart"] = float(np.sqrt(apart))
        report[name]["reconstructions right"] = nearest(extract(rebuilt(model, images)), own, pool)
        few = np.unique(np.linspace(0, len(drawn) - 1, 48 if split == "train" else 16).round().astype(int))
        shown.append(drawn[few] if split == "train" else framed(drawn[few]))
        report[name]["shown"] = [prompts[i] for i in few]
    return report, grid(np.concatenate(shown), 8)


def noise(options: argparse.Namespace) -> tuple[Report, np.ndarray]:
    model, extract = ldm_jax.load(options.run), features()
    images, _ = pictures("train", model.image_size, options.num)
    pool, own = extract(pictures("train", model.image_size)[0]), extract(images)
    z, rng = batched(model.encode, images), np.random.default_rng(0)
    report, rows = {"n": len(images), "deviation of latents": float(z.std())}, [images[:8]]
    for deviation in (0.0, 0.1, 0.2, 0.3, 0.5):
        noisy = (z + deviation * rng.normal(size=z.shape)).astype(np.float32)
        drawn = to_uint8(batched(model.decode, noisy))
        report[f"right, noise {deviation}"] = nearest(extract(drawn), own, pool)
        rows.append(drawn[:8])
    return report, grid(np.concatenate(rows), 8)


def inpaint(options: argparse.Namespace) -> tuple[Report, np.ndarray]:
    model, distance = ldm_jax.load(options.run), lpips()
    images, _ = pictures("test", model.image_size, options.num)
    n, side = len(images), model.image_size
    draw = jax.jit(jax.vmap(lambda key: random_mask(key, (side, side), 5)))
    mask = np.asarray(draw(jax.random.split(jax.random.key(7), n)))
    steps = {"steps": options.steps, "batch_size": 100}
    drawn = {"trained": model.inpaint(jax.random.key(0), images, mask, **steps)}
    if options.plain:
        plain = ldm_jax.load(options.plain)
        told = {"prompts": [""]} if plain.text else {}
        drawn["replacement"] = plain.inpaint(jax.random.key(0), images, mask, guidance=1.0, **told, **steps)
    kept = (1 - mask).sum(axis=(1, 2), keepdims=True)
    mean = (images * (1 - mask)).sum(axis=(1, 2), keepdims=True) / np.maximum(kept, 1)
    drawn["mean fill"] = np.where(mask > 0, mean.round(), images).astype(np.uint8)
    drawn["autoencoder"] = rebuilt(model, images)
    drawn["autoencoder, of what was drawn"] = rebuilt(model, np.where(mask > 0, drawn["trained"], images))
    report: Report = {"n": n, "painted": float(mask.mean())}
    for name, found in drawn.items():
        inside = np.where(mask > 0, found, images).astype(np.uint8)
        apart = np.abs(found.astype(float) - images).mean(axis=-1, keepdims=True) / 255.0
        report[name] = {
            "lpips inside": float(distance(images, inside).mean()),
            "difference outside": float((apart * (1 - mask)).sum() / (1 - mask).sum()),
        }
    pasted = model.inpaint(jax.random.key(0), images[:8], mask[:8], paste=True, steps=options.steps)
    outside = np.where(mask[:8] > 0, 0, pasted.astype(int) - images[:8])
    report["difference outside with paste"] = float(np.abs(outside).max() / 255.0)
    hidden = np.where(mask > 0, 160, images).astype(np.uint8)
    few = [i for i in np.argsort(-mask.mean(axis=(1, 2, 3)))[::3] if mask[i].mean() < 0.6][:8]
    rows = [hidden, drawn["trained"], *([drawn["replacement"]] if options.plain else []), images]
    return report, grid(np.concatenate([row[few] for row in rows]), 8)


def upscale(options: argparse.Namespace) -> tuple[Report, np.ndarray]:
    model, distance, extract = ldm_jax.load(options.run), lpips(), features()
    images, _ = pictures("test", model.image_size, options.num)
    n, side = len(images), model.image_size
    small = np.rint(averaged(images, 4)).astype(np.uint8)
    bicubic = np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in small])
    found = {"bicubic": bicubic, "autoencoder": rebuilt(model, images)}
    for steps in options.step_counts:
        drawn = model.upscale(jax.random.key(0), small, steps=steps, batch_size=100)
        found[f"trained, {steps} steps"] = drawn
    report: Report = {"n": n}
    real = metrics.moments(extract(images)).gaussian
    for name, pixels in found.items():
        pair = images.astype(np.float32), pixels.astype(np.float32)
        psnr = np.asarray(metrics.psnr(*map(jnp.asarray, pair), data_range=255)).mean()
        distant = metrics.frechet_distance(real, metrics.moments(extract(pixels)).gaussian)
        report[name] = {
            "psnr": float(psnr),
            "lpips": float(distance(images, pixels).mean()),
            "fd_effnet": float(distant),
        }
    few = np.linspace(0, n - 1, 8).round().astype(int)
    near = small.repeat(4, axis=1).repeat(4, axis=2)
    return report, grid(np.concatenate([row[few] for row in (near, bicubic, *list(found.values())[2:], images)]), 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("use", choices=("text", "noise", "inpaint", "upscale"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, help="pictures of each split (default: all)")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--step-counts", type=int, nargs="+", default=[1, 4, 50])
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--interval", type=float, nargs=2)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    configure()
    report, picture = {"text": text, "noise": noise, "inpaint": inpaint, "upscale": upscale}[options.use](options)
    tell({"use": options.use, "device": jax.devices()[0].device_kind, **report}, options.out)
    if options.picture:
        write_png(options.picture, picture)


if __name__ == "__main__":
    main()
