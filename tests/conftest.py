"""Settings for every test: 8 CPU devices, strict ranks, checked shapes, one compilation cache."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny nets compile far longer than they run, so XLA and LLVM are told not to try hard.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}".strip()
CACHE = Path(os.environ.get("LDM_JAX_TEST_CACHE", Path(tempfile.gettempdir()) / "ldm_jax-test-cache"))

from jaxtyping import install_import_hook

# Every jaxtyping annotation of the package is checked by beartype while the tests run.
install_import_hook("ldm_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
