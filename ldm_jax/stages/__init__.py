"""What is trained, a file a kind: its loss, its batches, how it is judged, and the section of its settings.

Here belongs what tells one stage from another. How anything is trained, saved and resumed is in training/, which knows
`Stage` alone; what stages are put together from in experiment/. To add a kind, write its file with a subclass of
`Training` that names it, and add that to STAGES.
"""

from typing import TypeAlias

from ldm_jax.stages.autoencoder_config import AutoencoderLoss, AutoencoderTraining
from ldm_jax.stages.denoiser_config import Adapter, DenoiserTraining, Embedding
from ldm_jax.stages.prior import Prior

StageConfig: TypeAlias = AutoencoderTraining | DenoiserTraining
"""The sections that an experiment's `stages` may hold."""

__all__ = ["Adapter", "AutoencoderLoss", "AutoencoderTraining", "DenoiserTraining", "Embedding", "Prior", "StageConfig"]
