"""sample: images from a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError


def sample(args: Sequence[str]) -> int:
    """sample.py MODEL [--label N | --labels N ... | --prompt TEXT ...] [--num N] [--out x.png | x.npz | folder/] ..."""
    parser = Parser(prog="sample.py", description="Draws images from a trained model.", allow_abbrev=False)
    parser.add_argument("model", type=Path, help="a run's folder, its model/ or a pipeline folder of diffusers")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--label", type=int, help="one class for all images")
    what.add_argument("--labels", type=int, nargs="+", help="classes that share --num equally")
    what.add_argument("--prompt", nargs="+", help="texts, for models that read them")
    parser.add_argument("--negative", help="text that guidance leads away from (default: none)")
    parser.add_argument("--num", type=int, help="images in all (default: one a label, at least 16; one a prompt)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: the model's)")
    parser.add_argument(
        "--guidance", type=float, help="classifier-free guidance scale, 1 for none (default: the model's)"
    )
    parser.add_argument("--sampler", help="name of the sampler (default: the model's)")
    parser.add_argument("--height", type=int, help="of the images, in pixels (default: the model's)")
    parser.add_argument("--width", type=int, help="likewise")
    parser.add_argument("--image", nargs="+", type=Path, help="small images, for super-resolution models")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.add_argument("--seed", type=int, default=0, help="everything random is a function of it")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time over all devices, changes none")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="x.png (a grid), x.npz or a folder")
    options = parser.parse_args(args)

    import jax

    from ldm_jax.output import check_output, write_output
    from ldm_jax.pipeline import everywhere, load

    check_output(options.out)
    model = load(options.model, dtype=options.dtype, sharding=everywhere())
    labels = [options.label] if options.label is not None else options.labels
    if labels is None and model.num_classes:
        # All classes, or as many as a picture has room for.
        labels = list(range(model.num_classes if model.num_classes <= 100 else 16))
    given = options.prompt or options.image
    num = options.num if options.num is not None else len(given) if given else max(16, len(labels or ()))
    images = model.sample(
        jax.random.key(options.seed),
        labels=labels,
        prompts=options.prompt,
        num=num,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        batch_size=options.batch_size,
        negative=options.negative,
        image=read_images(options.image) if options.image else None,
        height=options.height,
        width=options.width,
    )
    drawn = None if labels is None else [labels[i % len(labels)] for i in range(num)]
    print(write_output(options.out, images, drawn, columns=len(labels) if labels and len(labels) > 1 else 8))
    return 0


def read_images(paths: Sequence[Path]) -> Float[np.ndarray, "n h w c"]:
    """Image files of one size as [-1, 1]; InputError for anything else."""
    from ldm_jax.data.decoding import decode

    images = []
    for path in paths:
        try:
            images.append(decode(path))
        except Exception as error:  # Pillow raises nearly every kind
            raise InputError(f"image: {path} can't be read ({str(error).splitlines()[0]})") from error
    if len({image.shape for image in images}) != 1:
        raise InputError("image: all must have one size and one number of channels")
    return np.stack(images).astype(np.float32) / 127.5 - 1.0
