"""The first stages of the LDM paper (Rombach et al. 2022, appendix, table 8), trained as they were.

    $ python train.py configs/ldm_autoencoder.py:kl-f8 --stage autoencoder --data.source folder:PATH

After the colon: kl-f4, kl-f8, kl-f16, kl-f32, vq-f4, vq-f8, vq-f8-n256 or vq-f16; kl-f8 where there is none. LPIPS
(`pip install -e ".[evaluation]"`) and a patch discriminator, which the generator sees from step 50,000. Made for
accelerators: one image of 256 px costs kl-f8 2.8 TFLOP a step (by XLA's count, all networks), and the paper's runs are
of the order of 250,000 steps. Published figures on ImageNet's validation set at 256 px, trained on OpenImages:

    name        rFID   PSNR     name        rFID   PSNR
    kl-f4       0.27   27.53    vq-f4       0.58   27.43
    kl-f8       0.90   24.19    vq-f8       1.14   23.07
    kl-f16      0.87   24.08    vq-f8-n256  1.49   22.43
    kl-f32      2.04   22.27    vq-f16      5.15   20.83

None of them was trained with this code; for a trial on a CPU add --smoke.
"""

from ldm_jax import Config
from ldm_jax.config import DataConfig
from ldm_jax.errors import InputError
from ldm_jax.models import AutoencoderConfig, DiscriminatorConfig, DiTConfig, VQConfig
from ldm_jax.stages import AutoencoderLoss, AutoencoderTraining, DenoiserTraining
from ldm_jax.training.decays import NoDecay
from ldm_jax.training.optimizers import AdamW

# name: (multipliers of 128 channels, levels with attention, latent channels, codes)
FAMILY = {
    "kl-f4": ((1, 2, 4), (), 3, 0),
    "kl-f8": ((1, 2, 4, 4), (), 4, 0),
    "kl-f16": ((1, 1, 2, 2, 4), (4,), 16, 0),
    "kl-f32": ((1, 1, 2, 2, 4, 4), (4, 5), 64, 0),
    "vq-f4": ((1, 2, 4), (), 3, 8192),
    "vq-f8": ((1, 2, 2, 4), (3,), 4, 16384),
    "vq-f8-n256": ((1, 2, 2, 4), (3,), 4, 256),
    "vq-f16": ((1, 1, 2, 2, 4), (4,), 8, 16384),
}


def get_config(name: str = "kl-f8") -> Config:
    if name not in FAMILY:
        raise InputError(f"config: {name!r} must be one of {', '.join(FAMILY)}")
    multipliers, attention, latents, codes = FAMILY[name]
    shape = {"multipliers": multipliers, "attention_levels": attention, "latent_channels": latents}
    autoencoder = VQConfig(**shape, codebook_size=codes) if codes else AutoencoderConfig(**shape)
    # The original sums the KL models' terms over the image and averages the VQ ones'.
    loss = AutoencoderLoss(
        reconstruction="l1",
        kl_weight=1e-6,
        reduction="mean" if codes else "sum",
        codebook="gradient",
        perceptual_weight=1.0,
        adversarial_weight=0.75 if codes else 0.5,
        adversarial="hinge",
        adversarial_start=50_000,
    )
    return Config(
        data=DataConfig(source="folder:images", image_size=256, batch_size=64, flip=True),
        autoencoder=autoencoder,
        stages=(
            AutoencoderTraining(
                steps=250_000,
                optimizer=AdamW(beta1=0.5, beta2=0.9),
                learning_rate=2.9e-4,
                warmup=0,
                decay=NoDecay(),
                clip=0.0,
                sample_every=5000,
                checkpoint_every=5000,
                loss=loss,
                discriminator=DiscriminatorConfig(channels=64, layers=2 if name == "vq-f16" else 3),
            ),
            DenoiserTraining(),
        ),
        denoiser=DiTConfig(patch=1, width=768, depth=12, heads=12),
    )
