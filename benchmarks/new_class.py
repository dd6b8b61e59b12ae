"""A tenth class taught to a model of nine: Fashion-MNIST's ankle boots from 200 images.

    python benchmarks/new_class.py data nine.npz tenth.npz
    python train.py configs/quickstart.py --data.source npz:nine.npz --workdir runs/nine \\
        --autoencoder-from runs/quickstart --autoencoder-trains nothing
    ldm-jax augment runs/nine --per-class 100 --out drawn.npz
    ldm-jax finetune runs/nine --data npz:tenth.npz --prior.source npz:drawn.npz --prior.share 0.75 --prior.weight 3 \\
        --steps 200 --data.batch-size 64 --stages.denoiser.learning-rate 5e-4 --workdir runs/ten
    python benchmarks/new_class.py judge runs/nine runs/ten [--num 1000] [--out new_class.json]

Pictures that the first model drew itself keep the nine classes as they are (prior preservation). A scikit-learn MLP,
trained on real images of all ten classes, says how many of either model's samples are of the class asked for.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from quickstart import classifier_of, flat, images_of
from reports import tell

import ldm_jax
from ldm_jax.data import open_source
from ldm_jax.runtime import configure

TENTH, IMAGES = 9, 200


def write(nine: Path, tenth: Path) -> None:
    """The training images of the other classes, and the first ones of the tenth."""
    source = open_source("bundled:fashion_mnist", "train")
    labels = np.array([source[i].label for i in range(len(source))])
    names = np.array(source.class_names)
    chosen = {nine: np.flatnonzero(labels != TENTH), tenth: np.flatnonzero(labels == TENTH)[:IMAGES]}
    for path, place in chosen.items():
        images = np.stack([source[int(i)].image for i in place])
        own = np.arange(10) != TENTH if path == nine else np.arange(10) == TENTH
        numbers = np.cumsum(own) - 1
        np.savez_compressed(path, images=images, labels=numbers[labels[place]], class_names=names[own])
        print(f"{path}: {len(place)} images of {own.sum()} classes")


def judge(before: Path, after: Path, num: int, guidance: float | None) -> dict:
    reader = classifier_of(*images_of("train", 32))
    report: dict = {"num": num}
    for name, run in (("before", before), ("after", after)):
        model = ldm_jax.load(run)
        asked = np.resize(np.arange(model.num_classes), num)
        drawn = model.sample(jax.random.key(0), labels=asked.tolist(), guidance=guidance, batch_size=100)
        right = reader.predict(flat(drawn)) == asked
        report[name] = {"the nine": float(right[asked != TENTH].mean())}
        if model.num_classes > TENTH:
            report[name]["the tenth"] = float(right[asked == TENTH].mean())
            report[name]["each"] = [float(right[asked == c].mean()) for c in range(model.num_classes)]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("nine", type=Path)
    data.add_argument("tenth", type=Path)
    judging = commands.add_parser("judge")
    judging.add_argument("before", type=Path)
    judging.add_argument("after", type=Path)
    judging.add_argument("--num", type=int, default=1000)
    judging.add_argument("--guidance", type=float)
    judging.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure()
    if options.command == "data":
        write(options.nine, options.tenth)
        return
    tell(judge(options.before, options.after, options.num, options.guidance), options.out)


if __name__ == "__main__":
    main()
