"""What a denoiser learns: the noise of one time, or the way through a whole interval, as choices of an experiment."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ldm_jax.diffusion.average_velocity import adaptive, mean_flow, shortcut
from ldm_jax.diffusion.losses import distance
from ldm_jax.diffusion.prediction import expand
from ldm_jax.diffusion.process import Process
from ldm_jax.diffusion.samplers import normal
from ldm_jax.diffusion.schedules import RectifiedFlow
from ldm_jax.errors import InputError
from ldm_jax.seeds import folded
from ldm_jax.training.stage import Metrics


@runtime_checkable
class Network(Protocol):
    """The denoiser and what it is told in this batch."""

    def __call__(
        self,
        z: Float[Array, "b ..."],
        t: Float[Array, "b"],
        interval: Float[Array, "b"] | None = None,
        /,
        *,
        told: bool = True,
        averaged: bool = False,
    ) -> Float[Array, "b ..."]:
        """Its output. told: of the conditions, or nothing; averaged: with the averaged parameters."""
        ...


class Problem(NamedTuple):
    """A batch, as an objective sees it."""

    process: Process
    network: Network
    x0: Float[Array, "b ..."]
    """Clean normalised latents."""
    noise_keys: Array
    """[b], of the noise."""
    time_keys: Array
    """[b], of the times."""
    index: Int[Array, "b"] | None
    """Places in the global batch, for stratified times."""
    count: int | None
    """Examples of the global batch."""


def _check_share(share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise InputError(f"stages.denoiser.objective.share: {share} must be above 0 and at most 1")


def _drawn(keys: Array, share: float) -> Bool[Array, "b"]:
    """Which examples have an interval, by one coin for each of keys [b]."""
    return jax.vmap(jax.random.uniform)(keys) < share


@runtime_checkable
class ObjectiveRule(Protocol):
    """One loss an example."""

    intervals: ClassVar[bool]
    """Whether the network is asked for averages over intervals."""

    def loss(self, problem: Problem) -> tuple[Float[Array, "b"], Metrics]:
        """(loss [b], metrics of [b])."""
        ...


@dataclasses.dataclass(frozen=True)
class Denoising:
    """What `process` says: noise, data or velocity at one time."""

    intervals: ClassVar[bool] = False

    def loss(self, problem: Problem) -> tuple[Float[Array, "b"], Metrics]:
        """See `Process.example_loss`."""
        process, x0, keys = problem.process, problem.x0, problem.noise_keys
        t = process.sample_times(problem.time_keys, problem.index, problem.count)
        seen, eps = process.noise(folded(keys, 1), normal(keys, x0))
        z_t = process.add_noise(x0, seen, t)
        output = problem.network(process.network_input(z_t, t), process.network_time(t))
        return process.example_loss(output, x0, eps, z_t, t), {}


@dataclasses.dataclass(frozen=True)
class MeanFlow:
    """Average velocities by their identity (Geng et al. 2025, arXiv 2505.13447): samples in one step, no teacher.

    Both ends of an interval are drawn from `process.times`.
    """

    intervals: ClassVar[bool] = True

    share: float = 0.25
    """Share of examples with an interval; the others learn the velocity at one time."""
    tangent: Literal["data", "network"] = "data"
    """Along which velocity the network is differentiated: the example's own, or the network's (iMF, 2512.02012)."""
    guidance: float = 1.0
    """Classifier-free guidance that becomes part of the network (section 4.2); samples are then drawn without."""
    mixing: float = 0.0
    """Share of the guided velocity that comes from the network's own, told (its kappa)."""
    power: float = 1.0
    """Of the adaptive weight 1 / (squared error + floor)^power; 0: the squared error."""
    floor: float = 1e-2
    """Keeps that weight finite."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        where = "stages.denoiser.objective"
        if not 0.0 <= self.mixing < 1.0:
            raise InputError(f"{where}.mixing: {self.mixing} must be at least 0 and less than 1")
        for field, least in (("guidance", 0.0), ("power", 0.0), ("floor", 1e-12)):
            if not least <= getattr(self, field) < math.inf:
                raise InputError(f"{where}.{field}: {getattr(self, field)} must be at least {least:g} and finite")

    def loss(self, problem: Problem) -> tuple[Float[Array, "b"], Metrics]:
        """The adaptive error of the average velocity."""
        x0, network = problem.x0, problem.network
        t, h = self._intervals(problem)
        eps = normal(problem.noise_keys, x0)
        z = problem.process.add_noise(x0, eps, t)
        velocity = self._guided(problem, z, t, eps - x0)
        tangent = velocity if self.tangent == "data" else network(z, t, jnp.zeros_like(t))
        found, wanted = mean_flow(network, z, t, h, velocity, tangent)
        return adaptive(found, wanted, self.power, self.floor), {}

    def _intervals(self, problem: Problem) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """Their later ends and lengths, most of which are 0."""
        a, b = (
            problem.process.sample_times(keys, problem.index, problem.count)
            for keys in (problem.time_keys, folded(problem.time_keys, 1))
        )
        long = _drawn(folded(problem.time_keys, 2), self.share)
        return jnp.maximum(a, b), jnp.where(long, jnp.abs(a - b), 0.0)

    def _guided(self, problem: Problem, z: Array, t: Array, velocity: Array) -> Array:
        """The velocity that is learnt: omega v + mixing u(told) + (1 - omega - mixing) u(nothing).

        Of an example that is told nothing its mean is v whatever the scale.
        """
        omega, none = self.guidance * (1.0 - self.mixing), jnp.zeros_like(t)
        guided = omega * velocity
        if self.guidance != 1.0:
            guided = guided + (1.0 - omega - self.mixing) * problem.network(z, t, none, told=False)
        if self.mixing:
            guided = guided + self.mixing * problem.network(z, t, none)
        return jax.lax.stop_gradient(guided)


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """Steps of 1, 1/2, 1/4, ... that agree with two of half the length (Frans et al. 2024, arXiv 2410.12557)."""

    intervals: ClassVar[bool] = True

    share: float = 0.25
    """Share of examples with an interval; the others learn the velocity at one time."""
    halvings: int = 7
    """The shortest steps are 1 / 2^halvings long."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.halvings < 1:
            raise InputError(f"stages.denoiser.objective.halvings: {self.halvings} must be at least 1")

    def loss(self, problem: Problem) -> tuple[Float[Array, "b"], Metrics]:
        """The squared error of the velocity, or of a step against two halves by the averaged network."""
        x0, network, keys = problem.x0, problem.network, problem.time_keys
        long = _drawn(folded(keys, 1), self.share)
        # h = 2^-k, and t one of its multiples.
        k = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.halvings))(folded(keys, 2))
        h = jnp.exp2(-k.astype(jnp.float32))
        place = jnp.floor(jax.vmap(jax.random.uniform)(folded(keys, 3)) / h)
        t = jnp.where(long, (place + 1.0) * h, problem.process.sample_times(keys, problem.index, problem.count))
        h = jnp.where(long, h, 0.0)
        eps = normal(problem.noise_keys, x0)
        z = problem.process.add_noise(x0, eps, t)

        def averaged(z: Array, t: Array, h: Array) -> Array:
            return network(z, t, h, averaged=True)

        halves = shortcut(averaged, z, t, h, least=0.5**self.halvings)
        wanted = jnp.where(expand(h, x0) > 0.0, halves, eps - x0)
        return distance("squared", network(z, t, h), wanted), {}


Objective: TypeAlias = Denoising | MeanFlow | Shortcut
"""What `stages.denoiser.objective` may be."""


def check_objective(objective: Objective, process: Process, network: Any, dropout: bool) -> None:
    """InputError where it doesn't go with the process, with the denoiser's config, or with what is never dropped."""
    if not objective.intervals:
        return
    where = f"stages.denoiser.objective: {type(objective).__name__}"
    if not isinstance(process.schedule, RectifiedFlow) or process.prediction != "flow":
        raise InputError(f"{where} needs process.schedule rectified_flow and process.prediction flow")
    if process != Process(process.schedule, times=process.times):
        raise InputError(f"{where} has a loss of its own; of process only the times may be set")
    if not hasattr(network, "interval"):
        raise InputError(f"{where} needs a network that is told intervals, such as DiT")
    if isinstance(objective, MeanFlow) and objective.guidance != 1.0 and not dropout:
        raise InputError(f"{where}'s guidance {objective.guidance} needs a condition with dropout")
