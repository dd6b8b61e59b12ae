"""Low-rank changes of a pretrained denoiser (LoRA): the network is frozen, its adapters are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jaxtyping import Array

from ldm_jax.errors import InputError
from ldm_jax.pipeline import LatentDiffusion
from ldm_jax.pretrained.lora import Adapter as Pair
from ldm_jax.pretrained.lora import init_lora, merge, save_lora
from ldm_jax.stages.denoiser import DenoiserStage
from ldm_jax.stages.denoiser_loss import Weights
from ldm_jax.training.stage import Context, Params

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls a file of adapters."""


class AdapterStage(DenoiserStage):
    """See `Stage`; the parameters are {"adapters": {kernel's path: ...}, "conditions": {name: ...}}."""

    room = "adapter"

    def __init__(self, *args: Any, given: Params, **options: Any):
        super().__init__(*args, given=None, **options)
        if self.scanned:
            raise InputError(
                "stages.denoiser.scan: an adapter's layers are those of the plain network; it must be False"
            )
        if given is None:
            raise InputError("stages.denoiser.adapter: it needs a pretrained denoiser (--denoiser-from PATH)")
        self.frozen = {"denoiser": given}

    @property
    def scale(self) -> float:
        """alpha / rank."""
        adapter = self.training.adapter
        assert adapter is not None
        return (adapter.alpha or adapter.rank) / adapter.rank

    def _optimizer(self) -> optax.GradientTransformation:
        return self.training.make_optimizer()

    def _weights(self) -> Weights:
        def merged(params: Params, context: Context) -> Params:
            return merge(context.frozen["denoiser"], pairs(params["adapters"]), self.scale)

        return merged

    def init(self, key: Array, given: Params) -> Params:
        adapter = self.training.adapter
        assert adapter is not None
        chosen = {"targets": adapter.layers} if adapter.layers else {}
        adapters = init_lora(self.module, adapter.rank, key, **chosen)
        plain = {path: {"down": down, "up": up} for path, (down, up) in adapters.items()}
        return {"adapters": plain, "conditions": self._init_conditions(key)}

    def trained(self, params: Params) -> LatentDiffusion:
        """The model with the adapters merged into its denoiser."""
        assert self.frozen is not None
        merged = jax.jit(lambda base, own: merge(base, pairs(own), self.scale))
        return dataclasses.replace(
            self.model,
            denoiser=self.saved,
            denoiser_params=merged(self.frozen["denoiser"], params["adapters"]),
            condition_params=params["conditions"],
        )

    def save(self, params: Params, folder: Path) -> Path:
        """Writes the adapters alone, as diffusers reads them; the path of the file."""
        folder.mkdir(parents=True, exist_ok=True)
        scaled = {path: Pair(down, self.scale * up) for path, (down, up) in pairs(params["adapters"]).items()}
        save_lora(self.module, scaled, folder / FILE)
        return folder / FILE


def pairs(adapters: Mapping[str, Mapping[str, Any]]) -> dict[str, Pair]:
    """Plain dictionaries, as checkpoints hold them, as adapters."""
    return {path: Pair(entry["down"], entry["up"]) for path, entry in adapters.items()}
