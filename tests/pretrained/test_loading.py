"""Loading is lazy: types, shardings, and the host memory beside the parameters."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from ldm_jax.errors import InputError
from ldm_jax.models import DiT, DiTConfig, UNet, UNetConfig
from ldm_jax.pretrained import load_part, save_part
from ldm_jax.pretrained.lora import init_lora, merge
from ldm_jax.pretrained.parts import open_part


def test_types(tmp_path):
    """float32 by default, whatever the file holds; None keeps the file's own; what is kept goes back bit for bit."""
    folder = published.write("ldm_bert", tmp_path / "a")
    halves = {name: value.astype(np.float16) for name, value in published.tensors("ldm_bert").items()}
    save_file(halves, folder / "model.safetensors")
    _, params = load_part(folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    _, params = load_part(folder, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    module, params = load_part(folder, dtype=None)
    save_part(module, params, tmp_path / "b")
    back = load_file(tmp_path / "b" / "model.safetensors")
    for name, value in halves.items():
        assert back[name].dtype == np.float16
        np.testing.assert_array_equal(back[name], value)


def test_shardings(tmp_path):
    """Every tensor goes where it is wanted, one at a time; a function may choose."""
    folder = published.write("unet_sd1", tmp_path)
    _, plain = load_part(folder)
    mesh = Mesh(np.array(jax.devices()).reshape(8), ("data",))

    def place(path, shape):
        split = shape and shape[-1] % 8 == 0
        return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), "data") if split else PartitionSpec())

    _, params = load_part(folder, sharding=place)
    kernel = params["down0_block0"]["conv1"]["kernel"]
    assert len(kernel.sharding.device_set) == 8 and kernel.addressable_shards[0].data.shape == (3, 3, 8, 1)
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(one, two)


def test_opening_reads_no_tensor(tmp_path):
    """A file whose tensors are a hole of 1 TB opens at once; its shapes are refused before anything is allocated."""
    folder = published.write("ldm_bert", tmp_path)
    path = folder / "model.safetensors"
    path.unlink()
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + 2**40)
        except OSError:
            pytest.skip("this file system has no files of 1 TB")
    assert open_part(folder).tensors.info["a"].shape == (2**38,)
    with pytest.raises(InputError, match="lacks"):
        load_part(folder)


MEASURE = """
import sys, threading, time
from pathlib import Path
import numpy as np
from ldm_jax.pretrained import load_part
from ldm_jax.pretrained.tensors import Safetensors

def used():
    # Private memory, without pages of mapped files.
    return sum(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')) * 1024

load_part(sys.argv[2])  # what JAX itself needs is there before the measurement
sharding = None
if sys.argv[3] == 'device':
    import jax
    sharding = jax.devices()[0]
before, peak, stop = used(), [0], threading.Event()
def watch():
    while not stop.is_set():
        peak[0] = max(peak[0], used())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
module, params = load_part(sys.argv[1], dtype=None, sharding=sharding)
stop.set()
thread.join()
import jax
sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
print((peak[0] - before - sum(sizes)) / max(sizes), max(sizes), sum(sizes))
"""


def memory(tmp_path, width: int, depth: int, target: str) -> tuple[float, int, int]:
    """(host memory beside the parameters / largest tensor, largest tensor, parameters), in a process of its own."""
    config = DiTConfig(in_channels=4, out_channels=4, width=width, depth=depth, heads=8, num_classes=1000)
    for name, module in (
        ("large", DiT(config)),
        ("small", DiT(DiTConfig(in_channels=4, out_channels=4, width=8, heads=1))),
    ):
        shapes = jax.eval_shape(lambda m=module: m.init(jax.random.key(0), *m.example_inputs())["params"])
        save_part(module, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes), tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small", target],
        capture_output=True,
        text=True,
        check=True,
        env={"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    ratio, largest, total = done.stdout.split()
    return float(ratio), int(largest), int(total)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("target", ["numpy", "device"])
def test_memory(target, tmp_path):
    """A file of 2 GB: beside the parameters, less than 1.3 times the largest tensor."""
    ratio, largest, total = memory(tmp_path, 2048, 7, target)
    assert total > 1.9e9
    print(f"{target}: {ratio:.2f} of the largest tensor ({largest / 2**20:.0f} MiB), {total / 1e9:.2f} GB in all")
    assert ratio < 1.3


def test_lora_on_half_precision(tmp_path):
    """Adapters stay float32; the merged kernel keeps the parameters' type."""
    module, params = load_part(published.write("dit", tmp_path), dtype="bfloat16")
    adapters = init_lora(module, 2, jax.random.key(0))
    merged = merge(params, adapters)
    assert merged["block0"]["qkv"]["kernel"].dtype == jnp.bfloat16


def test_what_earlier_versions_wrote_loads_unchanged(tmp_path):
    """A trained UNet's units are in its record; fields that no network has any more are passed over."""
    small = {"channels": (8,), "attention": (0,), "mid_attention": 0, "heads": (1,), "groups": 4, "context_dim": 0}
    module = UNet(UNetConfig(in_channels=4, out_channels=4, num_classes=3, class_rows=4, **small))
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32),
        jax.eval_shape(lambda: module.init(jax.random.key(0), *module.example_inputs())["params"]),
    )
    save_part(module, params, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["_ldm_jax"] == {"num_classes": 3, "time_scale": 1000.0}
    record["_ldm_jax"] |= {"linear_projection": True, "upcast_attention": False}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert load_part(tmp_path)[0] == module
    ours = {**dataclasses.asdict(module.config), "linear_projection": True, "upcast_attention": True, "time_scale": 1.0}
    save_tensors = {"/".join(path): value for path, value in flatten_dict(params).items()}
    save_file(save_tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ldm_jax.UNet", **ours}))
    assert load_part(tmp_path)[0] == UNet(dataclasses.replace(module.config, time_scale=1.0))


def test_published_networks_count_to_1000(tmp_path):
    """Whatever wrote them, t is in the network's own units, 0 to 999."""
    for name in published.NAMES:
        if name.startswith(("unet", "dit", "sd3")):
            module, _ = load_part(published.write(name, tmp_path / name))
            assert module.config.time_scale == 1.0
