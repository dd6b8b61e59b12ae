"""What the page asks of a model, checked and drawn: previews while it goes on, then pictures with their settings."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from ldm_jax import seeds
from ldm_jax.conditions.classes import class_number
from ldm_jax.conditions.low_resolution import LowResolutionCondition
from ldm_jax.diffusion.editing import slerp
from ldm_jax.errors import InputError
from ldm_jax.images import is_picture
from ldm_jax.pipeline import LatentDiffusion, name_of
from ldm_jax.web.limits import Limits, painted
from ldm_jax.web.preview import fit_preview
from ldm_jax.web.watching import Seen, listening, watched

CONTROLS = {"labels", "prompts", "image", "mask", "masked"}
"""What the page can tell a model."""
SEED = 2**32 - 1
"""The largest seed of the page: a browser's numbers are doubles."""


class Asked(NamedTuple):
    """What the page's controls say, unchecked."""

    label: str | None = None
    """A class by name or number; None: the classes in turn."""
    prompt: str = ""
    negative: str = ""
    num: Any = 1
    steps: Any = 25
    guidance: Any = 1.0
    sampler: str = ""
    seed: Any = 0


class Progress(NamedTuple):
    """How far a drawing is."""

    share: float
    """From 0 to 1, of the way from noise to data."""
    pictures: UInt8[np.ndarray, "b h w c"]
    """What it seems to become, by the linear map."""


class Drawn(NamedTuple):
    """What was drawn."""

    pictures: UInt8[np.ndarray, "n h w c"]
    settings: list[dict[str, Any]]
    """Of each picture; `sample.py --again` draws what came from noise once more, of uploads it lacks the file."""
    seconds: float


class Studio:
    """A model behind a page: every method checks what it is asked, and raises InputError with one line."""

    def __init__(self, model: LatentDiffusion, name: str, software: str, limits: Limits = Limits()):  # noqa: B008
        """name: the model's, as its pictures tell it. software: likewise, with its version.

        Raises:
          InputError: the model has no denoiser, draws no pictures, or must be told what a page has no control for.
        """
        model.recipe()
        if not is_picture(model.shape):
            raise InputError(f"model: it makes signals {list(model.shape)}, the page shows pictures")
        others = [c.name for c in model.conditions if not CONTROLS & set(c.asks)]
        if others:
            raise InputError(f"model: it is told {', '.join(others)}, which the page has no control for; use sample.py")
        self.model, self.name, self.software, self.limits = watched(model), name, software, limits
        self.preview = fit_preview(model, jax.random.key(0))

    def draw(self, asked: Asked) -> Iterator[Progress | Drawn]:
        """From noise."""
        how = self.how(asked)
        return self._run(asked, how, lambda key: self.model.sample(key, num=int(asked.num), **how))

    def edit(self, asked: Asked, picture: Any, strength: Any) -> Iterator[Progress | Drawn]:
        """From an upload, `strength` of the way to noise and back."""
        image, how = self._upload(picture), self.how(asked)
        strength = self.limits.share("strength", strength)
        images = np.repeat(image[None], int(asked.num), axis=0)
        return self._run(
            asked, how, lambda key: self.model.edit(key, images, strength, **how), strength=strength, image="an upload"
        )

    def inpaint(self, asked: Asked, picture: Any, layers: Any, paste: bool) -> Iterator[Progress | Drawn]:
        """In an upload, where `layers` are painted."""
        image, how = self._upload(picture), self.how(asked)
        mask = painted(layers, *image.shape[:2])
        images, masks = (np.repeat(array[None], int(asked.num), axis=0) for array in (image, mask))
        return self._run(
            asked,
            how,
            lambda key: self.model.inpaint(key, images, masks, paste=bool(paste), **how),
            image="an upload",
            mask="painted",
        )

    def upscale(self, asked: Asked, picture: Any) -> Iterator[Progress | Drawn]:
        """Of an upload, made as small as the model expects it."""
        factors = [c.config.factor for c in self.model.conditions if isinstance(c, LowResolutionCondition)]
        side = self.model.image_size // (factors[0] if factors else self.model.autoencoder.config.factor)
        image, how = self._upload(picture, side), self.how(asked)
        images = np.repeat(image[None], int(asked.num), axis=0)
        return self._run(asked, how, lambda key: self.model.upscale(key, images, **how), upscale="an upload")

    def interpolate(self, asked: Asked, other: Any, share: Any) -> Iterator[Progress | Drawn]:
        """One picture between those of two seeds, `share` of the way from the first."""
        how, asked = self.how(asked), asked._replace(num=1)
        other = self.limits.number("other seed", other, 0, SEED)
        share = self.limits.share("share", share)
        ends = [jnp.asarray(self.model.noise(seeds.key(seed))) for seed in (int(asked.seed), other)]
        between = np.asarray(slerp(ends[0], ends[1], share))
        return self._run(
            asked, how, lambda key: self.model.sample(key, num=1, latents=between, **how), latents="between"
        )

    def _upload(self, picture: Any, side: int | None = None) -> UInt8[np.ndarray, "h w c"]:
        h, w, c = self.model.shape
        return self.limits.upload("image", picture, side or h, side or w, c)

    def how(self, asked: Asked) -> dict[str, Any]:
        """Arguments of `LatentDiffusion.sample`, each within its limits."""
        model, limits = self.model, self.limits
        limits.number("num", asked.num, 1, limits.images)
        limits.number("seed", asked.seed, 0, SEED)
        how: dict[str, Any] = {
            "steps": limits.number("steps", asked.steps, 1, limits.steps),
            "guidance": limits.share("guidance", asked.guidance, limits.guidance, -limits.guidance),
            "sampler": limits.words("sampler", asked.sampler) or None,
        }
        if model.num_classes and asked.label not in (None, ""):
            how["labels"] = [class_number(limits.words("label", asked.label), model.num_classes, model.class_names)]
        if model.text is not None:
            how["prompts"] = [limits.words("prompt", asked.prompt)]
            if limits.words("negative", asked.negative):
                how["negative"] = asked.negative
        # Whatever can be said against them is said before anything is compiled.
        model.recipe(how["steps"], how["sampler"])
        return how

    def _settings(self, asked: Asked, how: Mapping[str, Any], more: Mapping[str, Any], i: int) -> dict[str, Any]:
        """Of picture i, in the words that `sample.py --again` reads."""
        model = self.model
        labels = how.get("labels") or ([i % model.num_classes] if model.num_classes else None)
        settings = {
            "model": self.name,
            "labels": labels,
            "prompts": how.get("prompts"),
            "negative": how.get("negative"),
            **more,
            "seed": int(asked.seed),
            "first": i,
            "num": 1,
            "steps": how["steps"],
            "guidance": how["guidance"],
            "sampler": how["sampler"] or name_of(model.sampling.sampler),
            "software": self.software,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _run(
        self, asked: Asked, how: Mapping[str, Any], draw: Callable[[Any], np.ndarray], **more: Any
    ) -> Iterator[Progress | Drawn]:
        """Draws in a thread of its own; only the newest preview is kept for whoever is slow to look."""
        start, news = time.monotonic(), queue.SimpleQueue[Any]()
        top: list[float] = []

        def seen(one: Seen) -> None:
            if not top:
                top.append(max(one.t, 1e-6))
            news.put(Progress(1.0 - min(one.t / top[0], 1.0), self.preview(one.x0)))

        def work() -> None:
            try:
                with listening(seen):
                    pictures = np.asarray(draw(seeds.key(int(asked.seed))))
                news.put(pictures)
            except BaseException as error:
                news.put(error)

        threading.Thread(target=work, daemon=True).start()
        while True:
            one = news.get()
            while isinstance(one, Progress) and not news.empty():
                one = news.get()
            if isinstance(one, BaseException):
                raise one
            if isinstance(one, Progress):
                yield one
                continue
            settings = [self._settings(asked, how, more, i) for i in range(len(one))]
            yield Drawn(one, settings, time.monotonic() - start)
            return


def told(error: BaseException) -> str:
    """What a visitor is told: what was wrong with the request, and of a bug no more than that there was one."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    return "Something went wrong here; the terminal of the page tells what."
