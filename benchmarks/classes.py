"""What the quickstart's model knows of classes: by its own errors, and by linear probes of what it computes.

    python benchmarks/classes.py runs/quickstart [--num 500] [--probed 5000] [--out classes.json]

- classifier: accuracy of `model.classify` on test images, with the evaluations of the network that an image takes, by
  its default rounds and by twice as many
- probes: test accuracy of logistic regressions on pixels, on latents, and on the features of each block of the denoiser
  at some times, the labels hidden from it; block and time are chosen on a fifth of the training images
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from quickstart import images_of
from reports import tell
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ldm_jax
from ldm_jax.pipeline.classes import blocks
from ldm_jax.runtime import configure
from ldm_jax.tasks import Rounds

ROUNDS = ((8, 16, 32), (16, 32, 64))
"""Times at which ten, four and two classes are tried: the default, and twice as many."""


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of a logistic regression on standardised features [n d]."""
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(train, labels)
    return float(fitted.score(test, truth))


def classifier(model: ldm_jax.LatentDiffusion, num: int, samples: tuple[int, ...]) -> dict:
    images, truth = (part[:num] for part in images_of("test", model.image_size))
    start = time.perf_counter()
    said = model.classify(images, rounds=Rounds(samples, (4, 2)))
    return {
        "n": len(images),
        "accuracy": float((said.labels == truth).mean()),
        "evaluations of the network an image": said.evaluations,
        "seconds": round(time.perf_counter() - start, 1),
    }


def probes(model: ldm_jax.LatentDiffusion, num: int) -> dict:
    images, labels = (part[:num] for part in images_of("train", model.image_size))
    tests, truth = images_of("test", model.image_size)
    cut = len(images) * 4 // 5

    def encoded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(model.encode(x[i : i + 500])) for i in range(0, len(x), 500)])

    report: dict = {"training images": len(images), "test images": len(tests)}
    for name, read in (("pixels", lambda x: x), ("latents", encoded)):
        a, b = (read(x).reshape(len(x), -1).astype(np.float32) for x in (images, tests))
        report[name] = probe(a, labels, b, truth)
    key, tried = jax.random.key(0), {}
    for layer in blocks(model.denoiser_params):
        for t in (0.05, 0.2, 0.4):
            found = model.features(images, key, time=t, layer=layer, batch_size=500)
            tried[layer, t] = probe(found[:cut], labels[:cut], found[cut:], labels[cut:])
    layer, t = max(tried, key=lambda at: tried[at])
    ends = (model.features(x, key, time=t, layer=layer, batch_size=500) for x in (images, tests))
    train, test = ends
    report["denoiser"] = {"layer": layer, "time": t, "accuracy": probe(train, labels, test, truth)}
    report["held-out training images"] = {f"{layer}, time {t}": round(value, 4) for (layer, t), value in tried.items()}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=500, help="test images that the model itself classifies")
    parser.add_argument("--probed", type=int, default=5000, help="training images of the probes, 0 for none")
    parser.add_argument("--rounds", type=int, default=0, help="leave out so many of the classifier's rounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure()
    model = ldm_jax.load(options.run)
    report: dict = {"classifier": [classifier(model, options.num, samples) for samples in ROUNDS[options.rounds :]]}
    if options.probed:
        report["probes"] = probes(model, options.probed)
    tell(report, options.out)


if __name__ == "__main__":
    main()
