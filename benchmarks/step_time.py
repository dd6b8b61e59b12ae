"""Milliseconds of the quickstart's two training steps, under different XLA flags, in turn so that noise hits all alike.

    python benchmarks/step_time.py [--rounds 3] [--out step_time.json] [FLAGS ...]

Each FLAGS is one string for XLA_FLAGS ("" for none); without any, the candidates for CPUs are tried. Figures are
medians over all rounds; `compile` is in seconds.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CANDIDATES = (
    "",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
    "--xla_cpu_experimental_onednn_custom_call=true --xla_cpu_use_onednn=true",
)
ROOT = Path(__file__).parent.parent


def worker() -> None:
    """Times both steps in this process and prints JSON."""
    import time
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np

    from ldm_jax.conditions import LabelCondition
    from ldm_jax.configfile import load_config
    from ldm_jax.models import make_autoencoder, make_denoiser
    from ldm_jax.stages import AutoencoderTraining, DenoiserTraining
    from ldm_jax.stages.autoencoder_loss import autoencoder_loss
    from ldm_jax.stages.denoiser_loss import denoiser_loss
    from ldm_jax.training.step import started, train_step

    config = load_config(ROOT / "configs" / "quickstart.py")
    b, size, factor = config.data.batch_size, config.data.image_size, config.autoencoder.factor
    z = np.zeros((b, size // factor, size // factor, config.autoencoder.latent_channels), np.float32)
    index, label = np.arange(b, dtype=np.int32), np.zeros(b, np.int32)
    ones, labels = jnp.ones(z.shape[-1]), LabelCondition(tuple(map(str, range(10))), 0.1)
    network = dataclasses.replace(config.denoiser, num_classes=-1).fitted(latent_channels=z.shape[-1], num_classes=10)
    ae, dit = make_autoencoder(config.autoencoder), make_denoiser(network)
    told = {"label": {"label": label}}
    stages = {
        "autoencoder": (
            ae,
            autoencoder_loss(ae, config.stage(AutoencoderTraining).loss),
            {"image": np.zeros((b, size, size, 1), np.float32), "index": index},
        ),
        "denoiser": (
            dit,
            denoiser_loss(dit, config.process, 0 * ones, ones, (labels,)),
            {"mean": z, "logvar": z, "conditions": told, "index": index},
        ),
    }
    out: dict[str, Any] = {"jax": jax.__version__}
    for stage, (module, loss_fn, batch) in stages.items():
        optimizer = config.stage(DenoiserTraining).make_optimizer()
        params = jax.jit(module.init)(jax.random.key(0), *module.example_inputs())["params"]
        # The average begins as the parameters themselves, which can't be donated twice.
        state = jax.tree.map(jnp.copy, started({stage: params}, optimizer))
        step = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, ema=0.99), donate_argnums=0)
        start = time.perf_counter()
        compiled = step.lower(state, batch, jax.random.key(0)).compile()
        out[f"{stage}_compile"] = time.perf_counter() - start
        times = []
        for _ in range(16):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch, jax.random.key(0)))
            times.append(time.perf_counter() - start)
        out[f"{stage}_ms"] = 1000 * float(np.median(times[1:]))
        out[f"{stage}_gflops"] = compiled.cost_analysis()["flops"] / out[f"{stage}_ms"] / 1e6
    print(json.dumps(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flags", nargs="*", default=CANDIDATES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    runs: dict[str, list[dict]] = {flags: [] for flags in options.flags}
    for _ in range(options.rounds):
        for flags, found in runs.items():
            env = {**os.environ, "XLA_FLAGS": flags, "LDM_JAX_STEP_TIME_WORKER": "1", "PYTHONPATH": str(ROOT)}
            done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
            if done.returncode:
                # A flag that this XLA doesn't know ends the process; anything else should be seen.
                print(f"{flags!r}: {' '.join(done.stderr.split())[-200:]}", file=sys.stderr)
            else:
                found.append(json.loads(done.stdout.splitlines()[-1]))
    table = []
    for flags, found in runs.items():
        row: dict = {"flags": flags, "rounds": len(found)}
        for name in found[0] if found else ():
            values = sorted(run[name] for run in found)
            row[name] = values[0] if isinstance(values[0], str) else round(values[len(values) // 2], 2)
        table.append(row)
        print(json.dumps(row))
    if options.out:
        options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    worker() if os.environ.get("LDM_JAX_STEP_TIME_WORKER") else main()
