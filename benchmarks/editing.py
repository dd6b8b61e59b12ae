"""Image to image, inversion and interpolation with a class-conditional model, on test images.

    python benchmarks/editing.py runs/quickstart [--num 100] [--out editing.json] [--picture editing.png]

- strengths: root mean square difference (pixels in [0, 1]) of `model.edit` from the reconstruction, towards another
  class, and the share of edited images that a scikit-learn MLP takes for that class
- inversion: |z' - z| / |z| of latents that were inverted and drawn again, for some numbers of steps of DDIM
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from quickstart import classifier_of, flat, images_of
from reports import tell

import ldm_jax
from ldm_jax.data import to_uint8
from ldm_jax.images import grid, write_png
from ldm_jax.runtime import configure

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    configure()
    model = ldm_jax.load(options.run)
    judge = classifier_of(*images_of("train", model.image_size))
    images, truth = (part[: options.num] for part in images_of("test", model.image_size))
    wanted = (truth + 1) % model.num_classes
    key, n = jax.random.key(0), len(images)
    plain = np.asarray(model.sample(key, num=n, labels=wanted.tolist()))
    report: dict = {"n": n, "strengths": {}}
    rows, first = [images[:10]], np.zeros(0)
    for strength in STRENGTHS:
        drawn = model.edit(key, images, strength, labels=wanted.tolist())
        first = drawn if strength == 0.0 else first
        apart = np.sqrt(np.square(flat(drawn) - flat(first)).mean(axis=1)).mean()
        report["strengths"][strength] = {
            "difference": round(float(apart), 4),
            "wanted class": round(float((judge.predict(flat(drawn)) == wanted).mean()), 3),
        }
        rows.append(drawn[:10])
        if strength == 1.0:
            report["strength 1 is sampling"] = bool((drawn == plain).all())
    z = np.asarray(model.encode(images))
    rebuilt = to_uint8(np.asarray(model.decode(z)))
    report["strength 0 from the reconstruction, grey levels"] = int(np.abs(first.astype(int) - rebuilt).max())
    report["inversion"] = {}
    for steps in (10, 25, 50):
        noise = model.invert(images, steps=steps, labels=truth.tolist())
        options_back = {"steps": steps, "sampler": "ddim", "guidance": 1.0, "labels": truth.tolist()}
        back = model.sample(key, latents=noise, output="latents", **options_back)
        report["inversion"][steps] = float(np.linalg.norm(back - z) / np.linalg.norm(z))
    tell(report, options.out)
    if options.picture:
        write_png(options.picture, grid(np.concatenate(rows), 10))


if __name__ == "__main__":
    main()
