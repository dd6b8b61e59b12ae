"""What a class-conditional model is used for: classifying images, and making labelled sets of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ldm_jax.errors import InputError
from ldm_jax.models import Conditioning
from ldm_jax.pipeline.compiled import class_errors, denoiser_features, rows
from ldm_jax.seeds import folded
from ldm_jax.tasks.classify import Classified, Rounds, classify

CLASSIFY, AUGMENT = Rounds(), Rounds((8,), ())


def blocks(params: Mapping[str, Any]) -> list[str]:
    """The names of a denoiser's blocks, those of one kind in their order."""
    found = [name for name in params if re.search(r"(block|attention)\d*$", name)]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def middle(params: Mapping[str, Any]) -> str:
    """The middle block: the UNet's last of its lowest level, half-way through a transformer."""
    found = blocks(params)
    return "mid_block1" if "mid_block1" in found else found[len(found) // 2]


def in_batches(compute: Callable[[np.ndarray], Array], n: int, size: int) -> np.ndarray:
    """compute(place [b]) of the rows 0 to n - 1, so many at a time; the last batch is filled up and cut.

    Every batch has the one compiled shape.
    """
    size, found = min(size, n), []
    for first in range(0, n, size):
        part = compute(np.minimum(np.arange(first, first + size), n - 1))
        found.append(np.asarray(part)[: n - first])
    return np.concatenate(found)


def check_keep(keep: float | int) -> None:
    """InputError for a share of the drawn images that can't be kept."""
    if not 0.0 < keep <= 1.0:
        raise InputError(f"keep: {keep} must be above 0 and at most 1")


def in_turn(images: Any, labels: Any, wanted: Int[np.ndarray, "m"]) -> np.ndarray:
    """One of the labelled images for each wanted class, those of a class in turn; InputError where it has none."""
    if images is None or labels is None:
        raise InputError("images, labels: give both, or neither")
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.shape != images.shape[:1] or images.ndim != 4 or not np.issubdtype(labels.dtype, np.integer):
        shapes = f"{labels.dtype} {list(labels.shape)}", list(images.shape)
        raise InputError("labels: {} must be a whole number for each of images {}".format(*shapes))
    place = np.zeros(len(wanted), int)
    for c in np.unique(wanted):
        own = np.flatnonzero(labels == c)
        if not len(own):
            raise InputError(f"labels: class {c} has no image; every class needs one")
        asked = np.flatnonzero(wanted == c)
        place[asked] = own[np.arange(len(asked)) % len(own)]
    return images[place]


class Labelled(NamedTuple):
    """Images with the classes that they were drawn for."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, "n"]


class Classes:
    """The uses of a class-conditional `LatentDiffusion`."""

    encode: Callable[..., Array]
    sample: Callable[..., Any]
    edit: Callable[..., Any]
    denoiser: Any
    denoiser_params: Any
    process: Any
    num_classes: int
    conditions: tuple[Any, ...]
    tell: Callable[..., Any]

    def _check_classes(self, what: str) -> None:
        if not self.num_classes or self.denoiser is None:
            raise InputError(f"model: it knows no classes; {what} needs a model that was trained with labels")
        if len(self.conditions) > 1:
            names = ", ".join(condition.name for condition in self.conditions)
            raise InputError(f"model: it is told {names}; {what} needs one that is told labels alone")

    def classify(
        self,
        images: Any,
        key: Any = None,
        *,
        rounds: Rounds = CLASSIFY,
        batch_size: int = 500,
    ) -> Classified:
        """The class of each image by the denoiser's own errors, without any classifier (arXiv 2303.16203).

        images: [n h w c], uint8 or in [-1, 1]. rounds: how often each class is tried; the default asks the network
        8 x 10 + 16 x 4 + 32 x 2 = 208 times an image where there are ten classes. batch_size: pairs of image and class
        at a time; does not affect results.
        """
        self._check_classes("classify")
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size: {batch_size} must be at least 1")
        key = jax.random.key(0) if key is None else key
        z = np.asarray(self.encode(images))
        n = len(z)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))

        def errors(alive: np.ndarray, times: np.ndarray, begin: int) -> np.ndarray:
            own = folded(keys, begin)
            pairs, labels = np.repeat(np.arange(n), alive.shape[1]), alive.reshape(-1)

            def part(place: np.ndarray) -> Array:
                return class_errors(
                    self.denoiser_params,
                    jnp.asarray(z[pairs[place]]),
                    own[pairs[place]],
                    jnp.asarray(labels[place], jnp.int32),
                    Conditioning(),
                    jnp.asarray(times, jnp.float32),
                    module=self.denoiser,
                    process=self.process,
                )

            return in_batches(part, len(pairs), batch_size).reshape(alive.shape)

        kept = tuple(min(count, self.num_classes) for count in rounds.kept)
        return classify(errors, n, self.num_classes, Rounds(rounds.samples, kept))

    def features(
        self,
        images: Any,
        key: Any = None,
        *,
        time: float | int = 0.1,
        layer: str | None = None,
        batch_size: int = 100,
        **given: Any,
    ) -> Float[np.ndarray, "n d"]:
        """What a layer of the denoiser makes of images, averaged over space, for a linear probe (arXiv 2303.09769).

        images: [n h w c], uint8 or in [-1, 1]. time: how far they are noised, 0 not at all; image i's noise depends on
        the key and i alone. layer: a block's name in the network's parameters; the middle one where None. given: what
        the denoiser is told, such as `labels`; a class-conditional one is told none by default.
        """
        if self.denoiser is None:
            raise InputError("model: it holds an autoencoder alone; `encode` gives its features")
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0.0 <= time <= 1.0:
            raise InputError(f"time: {time} must be between 0 and 1")
        layer = middle(self.denoiser_params) if layer is None else layer
        known = blocks(self.denoiser_params)
        if layer not in known:
            raise InputError(f"layer: {layer!r} must be one of {', '.join(known)}")
        key = jax.random.key(0) if key is None else key
        z = np.asarray(self.encode(images))
        if self.num_classes and len(self.conditions) == 1 and not given:
            cond = Conditioning(label=jnp.full(1, self.num_classes, jnp.int32))
        else:
            cond = self.tell(1.0, **given).cond

        def part(place: np.ndarray) -> Array:
            return denoiser_features(
                self.denoiser_params,
                jnp.asarray(z[place]),
                jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(place)),
                rows(cond, place),
                jnp.asarray(time, jnp.float32),
                module=self.denoiser,
                process=self.process,
                layer=layer,
            )

        return in_batches(part, len(z), batch_size)

    def augment(
        self,
        key: Array,
        per_class: int,
        *,
        images: Any = None,
        labels: Any = None,
        strength: float | int = 0.5,
        keep: float | int = 1.0,
        rounds: Rounds = AUGMENT,
        **sampling: Any,
    ) -> Labelled:
        """A set of as many images of every class, class after class in turn (0, 1, ..., 0, 1, ...).

        images: [n h w c] with labels [n], some of every class: these are drawn anew, those of a class in turn, from
        `strength` of the way to noise (as in `edit`; Trabucco et al. 2023, arXiv 2302.07944), instead of from noise
        alone. keep: share of the drawn images that are kept, of each class those whose own class errs least beside the
        best other one, by the diffusion classifier with `rounds`; 1 keeps all, unjudged. sampling: as for `sample`.
        """
        self._check_classes("augment")
        if type(per_class) is not int or per_class < 1:
            raise InputError(f"per_class: {per_class} must be a whole number of at least 1")
        check_keep(keep)
        classes, drawn = self.num_classes, int(np.ceil(per_class / keep))
        wanted = np.tile(np.arange(classes), drawn)
        if images is None and labels is None:
            found = self.sample(key, num=len(wanted), labels=list(range(classes)), **sampling)
        else:
            first = in_turn(images, labels, wanted)
            found = self.edit(key, first, strength, labels=list(range(classes)), **sampling)
        if keep == 1.0:
            return Labelled(found, wanted)
        errors = self.classify(found, key, rounds=rounds).errors
        own = np.take_along_axis(errors, wanted[:, None], 1)[:, 0]
        others = np.where(np.arange(classes) == wanted[:, None], np.inf, errors).min(axis=1)
        margin = own - others
        chosen = [np.flatnonzero(wanted == c)[np.argsort(margin[wanted == c])[:per_class]] for c in range(classes)]
        place = np.stack([np.sort(each) for each in chosen], axis=1).reshape(-1)
        return Labelled(found[place], wanted[place])
