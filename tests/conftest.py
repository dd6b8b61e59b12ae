"""Settings for every test: 8 CPU devices, strict ranks and dtypes, checked shapes, one compilation cache."""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny nets compile far longer than they run, so XLA and LLVM are told not to try hard.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):
    # These halve the compiler's work again. An XLA that doesn't know a flag ends the process: only where tried.
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}".strip()
CACHE = Path(os.environ.get("LDM_JAX_TEST_CACHE", Path(tempfile.gettempdir()) / "ldm_jax-test-cache"))

from jaxtyping import install_import_hook

# Every jaxtyping annotation of the package is checked by beartype while the tests run.
install_import_hook("ldm_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(CACHE / "tests"))
# Of the thousands of programs of single operations, too: to read one takes a tenth of the time to compile it.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# Otherwise the folder's name is part of every key, and a cache that was moved or copied has nothing.
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")

import contextlib
import dataclasses
import gc

import pytest
from jax._src.lru_cache import LRUCache


def _put_whole(self, key, value):
    """JAX writes a program's file in place, where another process of pytest-xdist may be reading it."""
    path = Path(self.path) / f"{key}-cache"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(value)
        part.replace(path)


LRUCache.put = _put_whole

# Tracing makes millions of small objects, and looking for garbage among them took a fifth of its time.
gc.set_threshold(50_000, 10, 10)

ROOT = Path(__file__).parent.parent
CORE = (
    "test_config.py",
    "test_configfile.py",
    "test_seeds.py",
    "test_files.py",
    "data/test_order.py",
    "data/test_loader.py",
    "diffusion/test_grids_times.py",
    "diffusion/test_prediction.py",
    "stages/test_denoiser_loss.py",
    "training/test_optimizers.py",
    "training/test_step.py",
)
"""The files of `pytest -m core`."""
LONG = (
    "experiment/test_run.py",
    "experiment/test_finetuning.py",
    "test_processes.py",
    "test_configs.py",
    "conditions/test_conditions.py",
    "experiment/test_prior.py",
    "experiment/test_new_classes.py",
    "models/test_compute.py",
    "pipeline/test_published.py",
    "pretrained/test_networks.py",
    "models/test_denoisers.py",
    "stages/test_autoencoder_loss.py",
)
"""Files that begin first, so that no process ends with one of them while the other has nothing left."""


def pytest_collection_modifyitems(items):
    """Marks what CORE names, and puts what LONG names before all else."""
    names = {item: item.path.relative_to(ROOT / "tests").as_posix() for item in items}
    for item, name in names.items():
        if name in CORE:
            item.add_marker(pytest.mark.core)
    items.sort(key=lambda item: LONG.index(names[item]) if names[item] in LONG else len(LONG))


def own_cache(name):
    """Of the environment: where another process, one of a name at a time, keeps what it compiles."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE / name),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }


MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Forgets compiled programs before they use up the 65,530 memory maps that Linux grants a process."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_config():
    """The quickstart, shrunk further: two stages of eight steps on 8 devices."""
    from ldm_jax.configfile import load_config
    from ldm_jax.smoke import shrink

    config = shrink(load_config(ROOT / "configs" / "quickstart.py"))
    few = {"steps": 8, "checkpoint_every": 6, "sample_every": 8}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, limit=64),
        stages=tuple(dataclasses.replace(stage, **few) for stage in config.stages),
        sampling=dataclasses.replace(config.sampling, steps=4),
    )


@pytest.fixture(scope="session")
def trained(tiny_config, tmp_path_factory):
    """The folder of a finished run of `tiny_config`; tests that change it copy it first."""
    from ldm_jax.experiment import Run

    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    # The processes of pytest-xdist share what is beside their own folders: the second takes the run of the first.
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    shared = workdir if alone else tmp_path_factory.getbasetemp().parent / "trained"
    if not shared.exists():
        Run(tiny_config, workdir).train()
        # Where both have trained one, each keeps to its own.
        with contextlib.suppress(OSError):
            return workdir.rename(shared)
        return workdir
    return shared
