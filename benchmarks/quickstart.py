"""How good the quickstart's samples are, by judges that know nothing of this project.

    python benchmarks/quickstart.py runs/quickstart [--num 2000] [--guidance W] [--steps N] [--out quickstart.json]

- accuracy: a scikit-learn MLP trained on the real training images names the class that was asked for
- nearest: distances (L2, pixels in [0, 1]) from each sample to its nearest training image, as quantiles, beside those
  of real test images and of the test images' reconstructions, which show what the autoencoder's blur alone does
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from reports import tell

try:
    from sklearn.neural_network import MLPClassifier
except ModuleNotFoundError:
    sys.exit('quickstart: error: scikit-learn is not installed; pip install -e ".[test]"')

import ldm_jax
from ldm_jax.data import Loader, open_source, to_uint8
from ldm_jax.runtime import configure

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def images_of(split: str, size: int, spec: str = "bundled:fashion_mnist") -> tuple[np.ndarray, np.ndarray]:
    """A set's images uint8 [n size size 1] and their labels [n]."""
    source = open_source(spec, split)
    loader = Loader(source, batch_size=1, image_size=size, channels=1, seed=0)
    _, images, _ = next(loader.in_order(len(source)))
    return to_uint8(images), loader.labels


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255.0


def classifier_of(images: np.ndarray, labels: np.ndarray) -> MLPClassifier:
    """A judge that was trained on these images, apart from any model; it takes `flat` ones."""
    return MLPClassifier((256,), max_iter=30, early_stopping=True, random_state=0).fit(flat(images), labels)


def nearest(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The L2 distance [n] from each image to the nearest of `others`."""
    a, b = flat(images), flat(others)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * a @ b.T
    return np.sqrt(np.maximum(squared.min(axis=1), 0.0))


def measure(run: Path, num: int = 2000, guidance: float | None = None, steps: int | None = None) -> dict:
    """All figures of a finished quickstart run."""
    model = ldm_jax.load(run)
    images, labels = images_of("train", model.image_size)
    test_images, test_labels = images_of("test", model.image_size)
    asked = np.resize(np.arange(model.num_classes), num)
    drawn = model.sample(jax.random.key(0), labels=asked.tolist(), guidance=guidance, steps=steps, batch_size=200)
    decoded = [
        np.asarray(model.decode(model.encode(jax.numpy.asarray(test_images[i : i + 200] / 127.5 - 1.0, np.float32))))
        for i in range(0, len(test_images), 200)
    ]
    rebuilt = to_uint8(np.concatenate(decoded))
    judge = classifier_of(images, labels)
    right = judge.predict(flat(drawn)) == asked
    sets = {"samples": drawn, "test": test_images, "reconstructions": rebuilt}
    mse = np.square(flat(rebuilt) - flat(test_images)).mean(axis=1)
    return {
        "num": num,
        "guidance": model.sampling.guidance if guidance is None else guidance,
        "steps": model.sampling.steps if steps is None else steps,
        "accuracy": float(right.mean()),
        "accuracy_of_each_class": [float(right[asked == c].mean()) for c in range(model.num_classes)],
        "accuracy_on_test_images": float(judge.score(flat(test_images), test_labels)),
        "accuracy_on_reconstructions": float(judge.score(flat(rebuilt), test_labels)),
        "psnr_of_reconstructions": float((-10.0 * np.log10(mse)).mean()),
        "quantiles": list(QUANTILES),
        "nearest": {k: np.quantile(nearest(v, images), QUANTILES).round(3).tolist() for k, v in sets.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure()
    figures = measure(options.run, options.num, options.guidance, options.steps)
    tell(figures, options.out)


if __name__ == "__main__":
    main()
