"""finetune: a model trained on with other data, whole, by LoRA, or by a new word; train with everything else chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldm_jax.cli.parsing import Parser, parse_config
from ldm_jax.cli.train import WANDB, train_config

if TYPE_CHECKING:
    from ldm_jax.config import Config

RATES = {"adapter": 1e-4, "embedding": 5e-3, "whole": 1e-5}
"""Learning rates: LoRA's and the whole network's as in diffusers' examples, a word's as in Gal et al. 2023."""


def finetune(args: Sequence[str]) -> int:
    """finetune MODEL --data SOURCE [--adapter.rank R | --embedding.token T] [--steps N] [--any.field VALUE]"""
    parser = Parser(
        prog="ldm-jax finetune",
        description="Trains a model on with other data: whole, or by LoRA (--adapter.rank 16), or a new word of its "
        "prompts (--embedding.token '<cat>').",
        epilog="Every field of an experiment is an option, too, as for train.",
    )
    parser.add_argument("model", type=Path, help="a run's folder or its model/, or a pipeline of diffusers")
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="folder:PATH, npz:PATH, tfds:NAME, bundled:NAME"
    )
    parser.number("--steps", int, least=1, default=1000, help="steps of the optimiser (default: 1000)")
    parser.add_argument("--workdir", type=Path, help="the run's folder (default: runs/MODEL-finetuned)")
    parser.add_argument("--wandb", metavar="PROJECT", help=WANDB)
    options, rest = parser.parse_known_args(args)
    kind = next((name for name in ("adapter", "embedding") if _names(rest, name)), "whole")
    workdir = options.workdir or Path("runs") / f"{_name(options.model)}-finetuned"
    config = parse_config(rest, default_config(options.model, options.data, options.steps, kind, workdir))
    return train_config(config, workdir, wandb=options.wandb)


def default_config(model: Path, source: str, steps: int, kind: str, workdir: Path) -> Config:
    """The experiment where nothing else is asked for; kind: one of RATES. InputError where there is no such model."""
    from ldm_jax.config import Config, DataConfig, Pretrained
    from ldm_jax.experiment.workdir import place_of_given
    from ldm_jax.pipeline.sizes import image_size_of
    from ldm_jax.stages import DenoiserTraining
    from ldm_jax.training.decays import NoDecay

    # A run keeps a copy of what it began with, and needs the model no more.
    size = image_size_of(place_of_given(str(model), workdir, "denoiser"))
    training = DenoiserTraining(
        steps=steps,
        learning_rate=RATES[kind],
        warmup=0,
        decay=NoDecay(),
        ema=0.999 if kind == "whole" else 0.0,
        log_every=10,
        sample_every=250,
        checkpoint_every=250,
    )
    data = DataConfig(source=source, image_size=size, batch_size=16)
    return Config(data=data, denoiser=Pretrained(str(model)), stages=(training,))


def _names(words: Sequence[str], section: str) -> bool:
    """Whether an option names a section of the denoiser's stage."""
    starts = (f"--{section}", f"--stages.denoiser.{section}")
    return any(word.startswith(starts) for word in words)


def _name(model: Path) -> str:
    """A model's name: its folder's, or of a run's model/ that of the run."""
    folder = model.resolve()
    return folder.parent.name if folder.name == "model" else folder.name
