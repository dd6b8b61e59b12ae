"""The strip of pictures on top of README: cut from the pictures in docs/, image to image drawn anew.

    python benchmarks/strip.py runs/emoji_cpu [--out docs/strip.png]

The pictures in docs/ are those that benchmarks/emoji_uses.py, benchmarks/shapes.py and train.py made (docs/uses.md has
the commands). RUN draws the image to image: emoji of its training set, 0.7 of the way to noise and back as others.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ldm_jax
from ldm_jax.data import annotation, open_source, prepare
from ldm_jax.runtime import configure

DOCS = Path(__file__).parents[1] / "docs"
SIDE, GAP, TITLE = 256, 12, 24
EDITS = (
    ("red heart", "blue heart"),
    ("dog face", "cat face"),
    ("red apple", "pear"),
)


def cut(name: str, cell: int, rows: tuple[int, ...], columns: tuple[int, ...]) -> np.ndarray:
    """Cells of a picture in docs/, as they lie there."""
    with Image.open(DOCS / name) as image:
        picture = np.asarray(image.convert("RGB"))
    lines = [[picture[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell] for c in columns] for r in rows]
    return np.concatenate([np.concatenate(line, axis=1) for line in lines])


def edited(run: Path) -> np.ndarray:
    """Above emoji, below what they become."""
    model, source = ldm_jax.load(run), open_source("bundled:emoji", "train")
    places = {caption: i for i in range(len(source)) for caption in annotation(source, i)[1]}
    pairs = [pair for pair in EDITS if pair[0] in places]
    images = np.stack([prepare(source[places[old]].image, model.image_size, 3) for old, _ in pairs])
    drawn = model.edit(jax.random.key(0), images, 0.7, prompts=[new for _, new in pairs])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (images, drawn)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=DOCS / "strip.png")
    options = parser.parse_args()
    configure()
    panels = {
        "text to image": cut("emoji_cpu.png", 64, (0, 1, 2, 3), (0, 1, 2, 3)),
        "words never seen together": cut("shapes.png", 64, (0, 1, 2, 3), (0, 1, 2, 3)),
        "inpainting": cut("inpainting.png", 32, (0, 1), (2, 3)),
        "image to image": edited(options.run),
        "16 to 64 pixels": cut("super_resolution.png", 64, (0, 3), (2, 3)),
        "classes": cut("quickstart.png", 64, (0, 1, 2, 3), (0, 5, 8, 9)),
    }
    font = ImageFont.load_default(15)
    scaled = {}
    for title, panel in panels.items():
        image = Image.fromarray(panel)
        scaled[title] = image.resize((round(SIDE * image.width / image.height), SIDE), Image.Resampling.NEAREST)
    width = sum(image.width + GAP for image in scaled.values()) - GAP
    strip = Image.new("RGB", (width, SIDE + TITLE), "white")
    draw, x = ImageDraw.Draw(strip), 0
    for title, image in scaled.items():
        draw.text((x, 2), title, fill="black", font=font)
        strip.paste(image, (x, TITLE))
        x += image.width + GAP
    strip.save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
