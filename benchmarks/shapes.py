"""How often a text-to-image model draws what a caption of `bundled:shapes` says, read off the pixels.

    python benchmarks/shapes.py RUN [--num 1000] [--guidance W] [--steps N] [--seed 0] [--out shapes.json]

Captions are those of the test split: every one names a pair of colour and shape that training never showed. A picture
of one object is right where exactly one is there, of that colour and shape; a picture of two where both are, on their
right sides of each other. The same reader judges the real pictures and their reconstructions. --real: these alone.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from reports import tell

import ldm_jax
from ldm_jax.data import to_uint8
from ldm_jax.data.bundled.shapes import HELD_OUT, Shapes, Thing
from ldm_jax.data.bundled.shapes_judge import things_in
from ldm_jax.images import grid, write_png
from ldm_jax.runtime import configure


def side(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Which axis tells two centres apart most, and in which direction."""
    apart = np.subtract(b, a)
    axis = int(np.argmax(np.abs(apart)))
    return axis, int(np.sign(apart[axis]))


def judged(picture: np.ndarray, asked: tuple[Thing, ...]) -> dict[str, bool]:
    """What of a picture is as it was asked for."""
    found = things_in(picture)
    if len(found) != len(asked):
        return {"number": False, "colour": False, "shape": False, "both": False, "place": False, "size": False}
    # Of two objects the one nearest to where it should be, by the pair's own axis, is compared.
    if len(asked) == 2:
        axis, sign = side(asked[0].centre, asked[1].centre)
        found.sort(key=lambda thing: sign * thing.centre[axis])
    pairs = list(zip(found, asked, strict=True))
    colour, shape = (all(getattr(a, part) == getattr(b, part) for a, b in pairs) for part in ("colour", "shape"))
    size = all(a.size == b.size for a, b in pairs)
    place = len(asked) < 2 or side(found[0].centre, found[1].centre) == side(asked[0].centre, asked[1].centre)
    return {"number": True, "colour": colour, "shape": shape, "both": colour and shape, "place": place, "size": size}


def shares(pictures: np.ndarray, asked: list[tuple[Thing, ...]]) -> dict[str, dict[str, float]]:
    """The share of pictures that are right, of one and of two objects, and of all together."""
    found = [judged(picture, things) for picture, things in zip(pictures, asked, strict=True)]
    right = np.array([each["both"] and each["place"] for each in found])
    count = np.array([len(things) for things in asked])
    out: dict[str, dict[str, float]] = {}
    for name, which in (("one", count == 1), ("two", count == 2), ("all", count > 0)):
        rows = [each for each, chosen in zip(found, which, strict=True) if chosen]
        out[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        out[name] |= {"right": float(right[which].mean()), "n": int(which.sum())}
    held = [
        (thing.colour, thing.shape) == (other.colour, other.shape)
        for picture, things in zip(pictures, asked, strict=True)
        if len(read := things_in(picture)) == len(things) == 1
        for thing, other in zip(read, things, strict=True)
        if (other.colour, other.shape) in HELD_OUT
    ]
    return {**out, "held-out pairs alone": {"right": float(np.mean(held)) if held else 0.0, "n": len(held)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    configure()
    source = Shapes(options.split)
    place = np.linspace(0, len(source) - 1, options.num).round().astype(int)
    scenes = [source.scene(int(i)) for i in place]
    asked = [things for things, _ in scenes]
    real = np.stack([source[int(i)].image for i in place])
    model = ldm_jax.load(options.run)
    rebuilt = [np.asarray(model.decode(model.encode(real[i : i + 100]))) for i in range(0, len(real), 100)]
    rebuilt = to_uint8(np.concatenate(rebuilt))
    drawn = model.sample(
        jax.random.key(options.seed),
        prompts=[caption for _, caption in scenes],
        guidance=options.guidance,
        steps=options.steps,
        batch_size=100,
    )
    report = {
        "command": f"python benchmarks/shapes.py RUN --num {options.num} --seed {options.seed} --split {options.split}",
        "guidance": model.sampling.guidance if options.guidance is None else options.guidance,
        "steps": model.sampling.steps if options.steps is None else options.steps,
        "real": shares(real, asked),
        "reconstructions": shares(rebuilt, asked),
        "samples": shares(drawn, asked),
    }
    if options.picture:
        write_png(options.picture, grid(drawn[:48], 8), 2)
    tell(report, options.out)


if __name__ == "__main__":
    main()
