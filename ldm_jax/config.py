"""The typed schema of an experiment: frozen dataclasses, checked when built, JSON both ways."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from ldm_jax.errors import InputError
from ldm_jax.models.autoencoder import AutoencoderConfig
from ldm_jax.models.discriminator import DiscriminatorConfig
from ldm_jax.models.dit import DiTConfig
from ldm_jax.models.tiny import TinyAutoencoderConfig
from ldm_jax.models.unet import UNetConfig
from ldm_jax.models.vq import FSQConfig, VQConfig

TIME_SCALE = 1000.0
"""Training's t counts to 1; the sinusoidal features of a UNet were made for a t that counts to 1000."""


def _at_least(section: str, config: Any, **bounds: int | float) -> None:
    for field, low in bounds.items():
        if getattr(config, field) < low:
            raise InputError(f"{section}.{field}: {getattr(config, field)} must be at least {low}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they enter."""

    source: str = "bundled:fashion_mnist"
    """bundled:NAME, tfds:NAME, folder:PATH or npz:PATH."""
    image_size: int = 32
    """Side in pixels; images are centre-cropped and resized to it."""
    batch_size: int = 64
    """Examples per step, over all devices."""
    flip: bool = False
    """Mirror half of the images left to right."""
    limit: int = 0
    """Use only about the first so many images, taken evenly over the set; 0 for all."""

    def __post_init__(self) -> None:
        _at_least("data", self, image_size=1, batch_size=1, limit=0)


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """The process that the denoiser learns to reverse."""

    schedule: Literal["rectified_flow", "cosine", "linear", "scaled_linear", "squaredcos_cap_v2"] = "rectified_flow"
    """Noise schedule; the last three are tables of 1000 betas."""
    prediction: Literal["eps", "x0", "v", "flow"] = "flow"
    """What the network outputs."""
    loss: Literal["eps", "x0", "v", "flow"] = "flow"
    """In which of these the squared error is taken; another than `prediction` is a weighting of it by time."""
    times: Literal["uniform", "logit_normal"] = "logit_normal"
    """Distribution of the training times."""
    times_mean: float = 0.0
    """Mean of logit(t), for logit_normal; positive is noisier."""
    times_std: float = 1.0
    """Standard deviation of logit(t), for logit_normal."""
    label_dropout: float = 0.1
    """Share of examples trained without their condition, for guidance."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_dropout <= 1.0:
            raise InputError(f"diffusion.label_dropout: {self.label_dropout} must be between 0 and 1")
        if self.times_std <= 0:
            raise InputError(f"diffusion.times_std: {self.times_std} must be positive")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The autoencoder's loss, per image element: reconstruction + perception + the bottleneck's penalty, and a game."""

    reconstruction: Literal["l1", "l2", "bce"] = "l1"
    """Mean over the image's elements; bce is on (x + 1) / 2 and needs autoencoder.sigmoid_output."""
    kl_weight: float = 1e-6
    """Weight of the KL in nats, divided by the image's elements; so this is the weight of LDM's sums, too."""
    reduction: Literal["mean", "sum"] = "mean"
    """sum: all but the game times the image's elements, as LDM has it for KL; mean: as it has it for VQ."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS; its networks are an extra: pip install -e ".[lpips]"."""
    perceptual: Literal["vgg16", "alexnet", "both"] = "vgg16"
    """The network of LPIPS: vgg16 as in LDM, alexnet at a fraction of the cost, both for the sum of the two."""
    adversarial_weight: float = 0.0
    """Weight of the generator's loss; 0: no discriminator."""
    adversarial: Literal["hinge", "non_saturating"] = "hinge"
    """Form of the game."""
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

    def __post_init__(self) -> None:
        weights = ("kl", "perceptual", "adversarial", "lecam", "r1", "equivariance")
        _at_least("autoencoder_loss", self, **{f"{name}_weight": 0.0 for name in weights})
        _at_least("autoencoder_loss", self, adversarial_start=0, commitment=0.0, restart_below=0.0)
        if self.restart_below > 1.0:
            raise InputError(f"autoencoder_loss.restart_below: {self.restart_below} must be at most 1")
        for field in ("lecam_weight", "r1_weight"):
            if getattr(self, field) and not self.adversarial_weight:
                raise InputError(f"autoencoder_loss.{field}: {getattr(self, field)} needs adversarial_weight above 0")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One stage's optimisation: AdamW with linear warm-up, cosine decay and clipping by global norm."""

    steps: int = 10_000
    """Optimiser steps."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    final_learning_rate: float = 0.0
    """Learning rate at the last step, as a share of the peak."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.99
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay, on matrices only."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""
    ema: float = 0.999
    """Decay of the averaged parameters, warmed up as (1 + step) / (10 + step)."""
    accumulate: int = 1
    """Micro-batches per step."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 1000
    """Steps between pictures and evaluations."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        _at_least("training", self, steps=1, warmup=0, accumulate=1, log_every=1, sample_every=1, checkpoint_every=1)
        _at_least("training", self, learning_rate=0.0, weight_decay=0.0, clip=0.0)
        if not 0.0 <= self.ema < 1.0:
            raise InputError(f"training.ema: {self.ema} must be at least 0 and less than 1")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn where nobody says otherwise."""

    sampler: str = "euler"
    """Name of the sampler."""
    steps: int = 50
    """Steps of the sampler."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is none."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Times in which guidance acts."""

    def __post_init__(self) -> None:
        _at_least("sampling", self, steps=1)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    autoencoder: AutoencoderConfig | VQConfig | FSQConfig | TinyAutoencoderConfig = AutoencoderConfig()
    autoencoder_from: str = ""
    """A model's folder, or one of an autoencoder alone, to start from; its architecture stands for `autoencoder`."""
    autoencoder_trains: Literal["all", "decoder", "nothing"] = "all"
    """decoder: the latents stay as they are. nothing: the autoencoder is used as autoencoder_from has it."""
    autoencoder_loss: LossConfig = LossConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    autoencoder_training: TrainingConfig = TrainingConfig()
    denoiser: DiTConfig | UNetConfig = DiTConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    denoiser_training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    parallel: Literal["pmap", "fsdp"] = "pmap"
    """pmap: replicated data parallelism. fsdp: jit with parameters and optimiser state sharded over the devices."""
    seed: int = 0
    """Everything random is a function of it."""

    def __post_init__(self) -> None:
        factor, size = self.autoencoder.factor, self.data.image_size
        if size % factor:
            raise InputError(f"data.image_size: {size} must be a multiple of the down-sampling factor {factor}")
        self._check_loss()
        self._check_denoiser()
        if self.autoencoder_trains == "nothing" and not self.autoencoder_from:
            raise InputError("autoencoder_trains: 'nothing' needs autoencoder_from, a trained autoencoder")
        for stage in (self.autoencoder_training, self.denoiser_training):
            if self.data.batch_size % stage.accumulate:
                raise InputError(
                    f"data.batch_size: {self.data.batch_size} must be a multiple of accumulate ({stage.accumulate})"
                )

    def _check_denoiser(self) -> None:
        denoiser, channels = self.denoiser, self.autoencoder.code_channels
        side = self.data.image_size // self.autoencoder.factor
        if isinstance(denoiser, UNetConfig):
            for field in ("context_dim", "added_dim"):
                if getattr(denoiser, field):
                    raise InputError(f"denoiser.{field}: {getattr(denoiser, field)} must be 0; training knows labels")
            if denoiser.class_rows and not denoiser.num_classes:
                raise InputError(f"denoiser.class_rows: {denoiser.class_rows} must be 0; num_classes -1 fills it in")
            return
        if side % denoiser.patch:
            raise InputError(
                f"denoiser.patch: {denoiser.patch} must divide the latents' side "
                f"{side} (image_size {self.data.image_size} / factor {self.autoencoder.factor})"
            )
        for field in ("in_channels", "out_channels"):
            value = getattr(denoiser, field)
            if value not in (0, channels):
                raise InputError(f"denoiser.{field}: {value} must be 0 or the latents' channels ({channels})")

    def _check_loss(self) -> None:
        loss, size = self.autoencoder_loss, self.data.image_size
        if loss.reconstruction == "bce" and not getattr(self.autoencoder, "sigmoid_output", False):
            raise InputError("autoencoder_loss.reconstruction: 'bce' needs autoencoder.sigmoid_output true")
        if loss.perceptual_weight and size < 16:
            raise InputError(f"data.image_size: {size} must be at least 16 for LPIPS (perceptual_weight)")
        if loss.adversarial_weight and size < self.discriminator.least_side:
            raise InputError(
                f"discriminator.layers: {self.discriminator.layers} need images of {self.discriminator.least_side} px, "
                f"data.image_size is {size}"
            )
        if loss.equivariance_weight:
            if isinstance(self.autoencoder, VQConfig | FSQConfig):
                raise InputError("autoencoder_loss.equivariance_weight: must be 0 for quantised latents")
            if size // self.autoencoder.factor % 2 or size < 32 * bool(loss.perceptual_weight):
                raise InputError(
                    f"autoencoder_loss.equivariance_weight: needs latents of even side, and 32 px with LPIPS; "
                    f"data.image_size is {size}"
                )

    def resolve(self, num_classes: int) -> Config:
        """This config with the open fields filled in: channels from images and latents, classes from the data."""
        channels, asked = self.autoencoder.code_channels, self.denoiser.num_classes
        if asked > 0 and asked != num_classes:
            raise InputError(f"denoiser.num_classes: {asked} must be -1, 0 or the data's {num_classes}")
        classes = num_classes if asked == -1 else asked
        filled: dict[str, Any] = {"in_channels": channels, "out_channels": channels, "num_classes": classes}
        if isinstance(self.denoiser, UNetConfig):
            filled |= {"class_rows": classes + 1 if classes else 0, "time_scale": TIME_SCALE}
        denoiser = dataclasses.replace(self.denoiser, **filled)
        discriminator = dataclasses.replace(self.discriminator, image_channels=self.autoencoder.image_channels)
        return dataclasses.replace(self, denoiser=denoiser, discriminator=discriminator)

    def to_json(self) -> str:
        """Indented JSON that `from_json` reads back to an equal config; "type" tells which network it is."""
        tree = dataclasses.asdict(self)
        for part in ("autoencoder", "denoiser"):
            tree[part] = {"type": type(getattr(self, part)).__name__, **tree[part]}
        return json.dumps(tree, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The config in `text`; InputError names an unknown field or a value of the wrong type."""
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"config: not JSON ({error})") from error
        return from_dict(cls, tree)


def from_dict(cls: type, tree: Any, path: str = "") -> Any:
    """A dataclass from nested dicts, every field's name and type checked; `path` prefixes field names in errors."""
    if not isinstance(tree, dict):
        raise InputError(f"{path.rstrip('.') or cls.__name__}: {tree!r} must be an object of fields")
    hints = typing.get_type_hints(cls)
    for name in tree:
        if name not in hints:
            raise InputError(f"{path}{name}: unknown field; accepted: {', '.join(hints)}")
    return cls(**{name: _convert(hints[name], value, f"{path}{name}") for name, value in tree.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, f"{path}.")
    if origin is Literal:
        if value not in args:
            raise InputError(f"{path}: {value!r} must be one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(_convert(kind, item, path) for kind, item in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        if all(dataclasses.is_dataclass(arg) for arg in args) and isinstance(value, dict):
            kinds = {arg.__name__: arg for arg in args}
            kind = value.get("type", args[0].__name__)
            if kind not in kinds:
                raise InputError(f"{path}.type: {kind!r} must be one of {', '.join(kinds)}")
            return from_dict(kinds[kind], {k: v for k, v in value.items() if k != "type"}, f"{path}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{path}: {value!r} must be {getattr(hint, '__name__', hint)}")


def load_config(path: str | Path) -> Config:
    """The config of a Python file (its `get_config()`) or of a JSON file such as runs/NAME/config.json.

    "FILE.py:NAME" calls get_config("NAME"), for files that describe a family.
    """
    file, colon, variant = str(path).rpartition(".py:")
    path = Path(f"{file}.py" if colon else path)
    if not path.is_file():
        raise InputError(f"config: {path} is not a file; name a .py with get_config() or a .json")
    if path.suffix == ".json":
        return Config.from_json(path.read_text())
    if path.suffix != ".py":
        raise InputError(f"config: {path} must end in .py or .json")
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    except SyntaxError as error:
        raise InputError(f"config: {path} line {error.lineno} is not Python ({error.msg})") from error
    if not callable(namespace.get("get_config")):
        raise InputError(f"config: {path} defines no get_config()")
    try:
        config = namespace["get_config"](*([variant] if colon else []))
    except TypeError as error:
        if not colon or inspect.signature(namespace["get_config"]).parameters:
            raise
        raise InputError(f"config: {path} describes one experiment, not {variant!r}") from error
    if not isinstance(config, Config):
        raise InputError(f"config: get_config() of {path} gives {type(config).__name__}, not ldm_jax.Config")
    return config
