"""Settings of JAX itself, made before its first computation and only where the user made none."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

# Per (major, minor) of jaxlib, what makes training on a CPU faster there; measured by benchmarks/step_time.py. An XLA
# that doesn't know a flag aborts the process, so no version gets a flag that it was not tried with.
CPU_FLAGS: dict[tuple[int, int], tuple[str, ...]] = {
    (0, 10): ("--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",),
}


def cpu_flags() -> tuple[str, ...]:
    """The XLA flags for this jaxlib on a CPU."""
    version = importlib.metadata.version("jaxlib").split(".")
    return CPU_FLAGS.get((int(version[0]), int(version[1])), ())


def cache_folder() -> Path:
    """Where compiled programs are kept: $JAX_COMPILATION_CACHE_DIR, or ldm_jax/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(base) / "ldm_jax" / "compiled")


def configure() -> None:
    """Fast CPU kernels and a compilation cache that outlives the process. Call it before JAX computes anything."""
    flags = os.environ.get("XLA_FLAGS", "")
    new = [flag for flag in cpu_flags() if flag.split("=")[0] not in flags]
    if new:
        os.environ["XLA_FLAGS"] = " ".join([flags, *new]).strip()
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
