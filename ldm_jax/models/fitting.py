"""Open fields of a denoiser's config, filled in from latents, labels and conditions."""

from __future__ import annotations

from typing import Any

from ldm_jax.errors import InputError


def channels(config: Any, latent_channels: int, image_channels: int) -> dict[str, int]:
    """in_channels and out_channels; InputError where one that is set is another than the latents and image need."""
    filled = {}
    for field, needed in (("in_channels", latent_channels + image_channels), ("out_channels", latent_channels)):
        value = getattr(config, field)
        if value not in (0, needed):
            image = f" + {image_channels} of the conditions' image" if needed > latent_channels else ""
            raise InputError(f"denoiser.{field}: {value} must be 0 or the latents' channels ({latent_channels}){image}")
        filled[field] = needed
    return filled


def classes(config: Any, num_classes: int) -> int:
    """num_classes; InputError where it is set and the data has another number of them."""
    asked = config.num_classes
    if asked > 0 and asked != num_classes:
        raise InputError(f"denoiser.num_classes: {asked} must be -1, 0 or the data's {num_classes}")
    return num_classes if asked == -1 else asked


def features(config: Any, **given: int) -> dict[str, int]:
    """Each named field: -1 becomes the features that the conditions give, 0 for none.

    A field that is 0 takes none in, whatever the conditions give; see `heard`.
    """
    filled = {}
    for field, value in given.items():
        own = getattr(config, field)
        if own > 0 and own != value:
            accepted = f"-1, 0 or the conditions' {value}" if value else "-1 or 0: the conditions give none"
            raise InputError(f"denoiser.{field}: {own} must be {accepted}")
        filled[field] = value if own == -1 else own
    return filled


def heard(config: Any, given: dict[str, int]) -> None:
    """InputError where the conditions give features and the config's fields, filled in, take in none of them."""
    if any(given.values()) and not any(getattr(config, field) for field in given):
        field, value = next((f, v) for f, v in given.items() if v)
        raise InputError(f"denoiser.{field}: 0 leaves the conditions unheard; it must be -1 or {value}")


def closed(config: Any, network: str) -> None:
    """InputError where a field is open: a network has to know its sizes."""
    fields = [(field, 0) for field in ("in_channels", "out_channels")]
    fields += [(field, -1) for field in ("num_classes", "context_dim", "pooled_dim", "added_dim")]
    for field, value in fields:
        if getattr(config, field, None) == value:
            raise InputError(f"denoiser.{field}: {value} is open; {network}Config.fitted fills it in")
