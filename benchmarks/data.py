"""How fast images come in: `python benchmarks/data.py [SOURCE ...]`, by default the bundled set."""

import sys
import time
from collections.abc import Callable
from typing import Any

from ldm_jax.data import Loader, open_source


def timed(name: str, unit: str, scale: float, function: Callable[[], Any]) -> Any:
    """Run `function`, print its time multiplied by `scale`, and return what it returns."""
    start = time.perf_counter()
    out = function()
    print(f"  {name:<44} {(time.perf_counter() - start) * scale:9.3f} {unit}")
    return out


def measure(spec: str, steps: int = 200, batch_size: int = 64, image_size: int = 32) -> None:
    """Print the times to open a source and to read it in batches."""
    print(f"{spec}, {batch_size} images of {image_size}x{image_size}")
    source = timed("open", "s", 1, lambda: open_source(spec))
    timed("open again", "s", 1, lambda: open_source(spec))
    channels = source[0].image.shape[-1]

    def loader(**changes: Any) -> Loader:
        return Loader(source, batch_size=batch_size, image_size=image_size, channels=channels, seed=0, **changes)

    kept, decoded = loader(flip=True), loader(flip=True, memory_limit=0)
    each = 1000 / steps
    timed("iterate, decoding on access", "ms a batch", each, lambda: sum(1 for _ in decoded.iterate(0, steps)))
    timed("everything once in order, first time", "s", 1, lambda: sum(1 for _ in kept.in_order(batch_size)))
    timed("everything once in order, from memory", "s", 1, lambda: sum(1 for _ in kept.in_order(batch_size)))
    timed("loader[k] from memory", "ms a batch", each, lambda: [kept[k]["label"] for k in range(steps)])
    timed("iterate from memory", "ms a batch", each, lambda: sum(1 for _ in kept.iterate(0, steps)))


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["bundled:fashion_mnist"]:
        measure(argument)
