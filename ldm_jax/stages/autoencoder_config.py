"""The autoencoder's section of an experiment."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from ldm_jax.errors import InputError
from ldm_jax.models import DiscriminatorConfig
from ldm_jax.training.stage import Training, at_least


@dataclasses.dataclass(frozen=True)
class AutoencoderLoss:
    """Per image element: reconstruction + perception + the bottleneck's penalty; and an adversarial loss."""

    reconstruction: Literal["l1", "l2", "bce"] = "l1"
    """Mean over the image's elements; bce is on (x + 1) / 2 and needs autoencoder.sigmoid_output."""
    kl_weight: float = 1e-6
    """Weight of the KL in nats, divided by the image's elements; so this is the weight of LDM's sums, too."""
    reduction: Literal["mean", "sum"] = "mean"
    """sum: all but the adversarial loss times the image's elements, as LDM has it for KL; mean: as it has it for VQ."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS; its networks are an extra: pip install -e ".[lpips]"."""
    perceptual: Literal["vgg16", "alexnet", "both"] = "vgg16"
    """The network of LPIPS: vgg16 as in LDM, alexnet at a fraction of the cost, both for the sum of the two."""
    adversarial_weight: float = 0.0
    """Weight of the generator's loss; 0: no discriminator."""
    adversarial: Literal["hinge", "non_saturating"] = "hinge"
    """Form of the adversarial loss."""
    adversarial_start: int = 0
    """Step from which the generator sees the discriminator, which is trained from the first."""
    adaptive: bool = True
    """Scale adversarial_weight so that the last layer's gradients balance (VQGAN's adaptive weight)."""
    lecam_weight: float = 0.0
    """Weight of LeCam's regulariser of the discriminator."""
    r1_weight: float = 0.0
    """Weight of the discriminator's squared gradient norm at real images."""
    codebook: Literal["ema", "gradient"] = "ema"
    """VQ: how the codebook follows its latents, by moving averages with restarts of rare codes, or by the loss."""
    commitment: float = 0.25
    """VQ: weight of the latents' distance to their codes."""
    restart_below: float = 0.1
    """VQ with ema: a code used less than this share of the even share starts anew on a latent of the batch."""
    equivariance_weight: float = 0.0
    """Weight of EQ-VAE's term: latents turned, mirrored and halved decode to the image treated alike."""

    @property
    def networks(self) -> tuple[Literal["vgg16", "alexnet"], ...]:
        """The networks of LPIPS that the loss reads."""
        if not self.perceptual_weight:
            return ()
        return ("vgg16", "alexnet") if self.perceptual == "both" else (self.perceptual,)

    def __post_init__(self) -> None:
        weights = ("kl", "perceptual", "adversarial", "lecam", "r1", "equivariance")
        at_least("stages.autoencoder.loss", self, **{f"{name}_weight": 0.0 for name in weights})
        at_least("stages.autoencoder.loss", self, adversarial_start=0, commitment=0.0, restart_below=0.0)
        if self.restart_below > 1.0:
            raise InputError(f"stages.autoencoder.loss.restart_below: {self.restart_below} must be at most 1")
        for field in ("lecam_weight", "r1_weight"):
            if getattr(self, field) and not self.adversarial_weight:
                raise InputError(
                    f"stages.autoencoder.loss.{field}: {getattr(self, field)} needs adversarial_weight above 0"
                )


@dataclasses.dataclass(frozen=True)
class AutoencoderTraining(Training):
    """The first stage: images to latents and back."""

    label: ClassVar[str] = "autoencoder"

    trains: Literal["all", "decoder"] = "all"
    """decoder: encoder and codebook, and so the latents, stay as they are."""
    loss: AutoencoderLoss = AutoencoderLoss()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
