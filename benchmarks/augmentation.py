"""What drawn images add to few real ones: classifiers of Fashion-MNIST from 100 images a class.

    python benchmarks/augmentation.py data few.npz
    python train.py configs/quickstart.py --data.source npz:few.npz --workdir runs/few
    python benchmarks/augmentation.py judge runs/few few.npz [--per-class 500] [--out augmentation.json]

The model has seen nine tenths of the same 1,000 images and no others. A small convolutional network is trained, as many
steps each time, on the real images alone, on them and the drawn ones, and on both again with every image moved by up to
two pixels; figures are its accuracy on the 2,000 test images, of several seeds. In a batch half of the images are real
ones. keep: the share of the drawn images that the model's own classifier keeps.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from quickstart import images_of
from reports import tell

import ldm_jax
from ldm_jax.data import open_source
from ldm_jax.models import apply
from ldm_jax.models.layers import space_to_depth
from ldm_jax.runtime import configure

BATCH = 64


def write_few(path: Path, per_class: int) -> None:
    """The first so many training images of every class, as an npz that `--data.source npz:` reads."""
    source = open_source("bundled:fashion_mnist", "train")
    labels = np.array([source[i].label for i in range(len(source))])
    place = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(len(source.class_names))]))
    images = np.stack([source[int(i)].image for i in place])
    np.savez_compressed(path, images=images, labels=labels[place], class_names=np.array(source.class_names))
    print(f"{path}: {len(place)} images")


class Classifier(nn.Module):
    """Three convolutions, halved in between; 0.1 M parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = space_to_depth(x, 2)
        for features in (32, 64, 128):
            h = nn.relu(nn.GroupNorm(8)(nn.Conv(features, (3, 3))(h)))
            h = nn.max_pool(h, (2, 2), (2, 2)) if features < 128 else h
        return nn.Dense(10)(h.mean(axis=(1, 2)))


def moved(key: jax.Array, x: jax.Array) -> jax.Array:
    """Every image of x [b h w c] by up to two pixels."""
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1.0)
    corners = jax.random.randint(key, (len(x), 2), 0, 5)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:]))(padded, corners)


@partial(jax.jit, static_argnames=("updates", "move", "mixed"), donate_argnames="carry")
def updated(
    carry: tuple, k: jax.Array, key: jax.Array, real: tuple, drawn: tuple, *, updates: int, move: bool, mixed: bool
) -> tuple:
    """Parameters and optimizer's state after update k; mixed: half of each batch is drawn."""
    params, state = carry
    a, b, c = jax.random.split(jax.random.fold_in(key, k), 3)
    own = jax.random.randint(a, (BATCH // 2 if mixed else BATCH,), 0, len(real[0]))
    x, y = real[0][own], real[1][own]
    if mixed:
        other = jax.random.randint(b, (BATCH // 2,), 0, len(drawn[0]))
        x, y = jnp.concatenate([x, drawn[0][other]]), jnp.concatenate([y, drawn[1][other]])
    x = moved(c, x) if move else x

    def loss(params: dict) -> jax.Array:
        logits = apply(Classifier(), params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    changes, state = adamw(updates).update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, changes), state


def adamw(updates: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(2e-3, updates), weight_decay=0.05)


@jax.jit
def accuracy(params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
    return (apply(Classifier(), params, images).argmax(axis=-1) == labels).mean()


def fitted(key: jax.Array, real: tuple, drawn: tuple, tests: tuple, updates: int, **settings: bool) -> float:
    """Test accuracy after so many updates."""
    params = Classifier().init(key, real[0][:1])["params"]
    carry = params, adamw(updates).init(params)
    # Step by step: XLA's convolutions on a CPU are many times slower within a scan.
    for k in range(updates):
        carry = updated(carry, jnp.asarray(k), key, real, drawn, updates=updates, **settings)
    return float(accuracy(carry[0], *tests))


def judge(options: argparse.Namespace) -> dict:
    model, start = ldm_jax.load(options.run), time.perf_counter()
    # All of them: a run holds a tenth out of a file without a test split.
    parts = [images_of(split, 32, f"npz:{options.data}") for split in ("train", "test")]
    real = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    sampling = {"guidance": options.guidance, "steps": options.steps, "batch_size": 100}
    if options.strength is not None:
        sampling |= {"images": real[0], "labels": real[1], "strength": options.strength}
    drawn = model.augment(jax.random.key(1), options.per_class, keep=options.keep, **sampling)
    report: dict = {
        "per_class": options.per_class,
        "keep": options.keep,
        "strength": options.strength,
        "guidance": options.guidance or model.sampling.guidance,
        "seconds of drawing": round(time.perf_counter() - start, 1),
    }

    def arrays(images: np.ndarray, labels: np.ndarray) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(images / np.float32(127.5) - np.float32(1.0)), jnp.asarray(labels, jnp.int32)

    few, many, tests = arrays(*real), arrays(*drawn), arrays(*images_of("test", 32))
    for move in (False, True):
        for mixed in (False, True):
            found = [
                100.0 * fitted(key, few, many, tests, options.updates, move=move, mixed=mixed)
                for key in jax.random.split(jax.random.key(2), options.seeds)
            ]
            name = ("real and drawn" if mixed else "real") + (", moved" if move else "")
            report[name] = {"mean": round(float(np.mean(found)), 2), "std": round(float(np.std(found)), 2)}
            report[name]["each"] = [round(value, 2) for value in found]
            print(name, report[name], flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("path", type=Path)
    data.add_argument("--real", type=int, default=100, help="images of every class")
    judging = commands.add_parser("judge")
    judging.add_argument("run", type=Path)
    judging.add_argument("data", type=Path)
    judging.add_argument("--per-class", type=int, default=500)
    judging.add_argument("--keep", type=float, default=1.0)
    judging.add_argument("--guidance", type=float)
    judging.add_argument("--strength", type=float, help="the real images drawn anew, from so far to noise")
    judging.add_argument("--steps", type=int)
    judging.add_argument("--updates", type=int, default=1000)
    judging.add_argument("--seeds", type=int, default=5)
    judging.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure()
    if options.command == "data":
        write_few(options.path, options.real)
        return
    tell(judge(options), options.out)


if __name__ == "__main__":
    main()
