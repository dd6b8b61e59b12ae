"""Our networks against diffusers' with the same weights, on this machine's CPU: seconds, medians, ratios.

    python benchmarks/speed.py --python PATH/TO/PYTHON [--rounds 7] [--out speed.json] [--picture speed.png]

PYTHON has torch (CPU) and diffusers; it makes three networks with random weights, which we load from its folders: DiT
(6 x 256, 64 tokens, batch 16), UNet2DModel ((64, 128, 256), 16 x 16, batch 16), AutoencoderKL ((32, 64, 128), 64 px,
batch 8). Both halves are processes that stay, and take turns in every round, so that what else the machine does hits
both; the figures are medians of rounds. Training is one step of AdamW, sampling 50 guided DDIM steps. Ours are compiled
before they are timed (`compile`, seconds). `apart` is how far the mean squares of both outputs are from each other,
which shows that they are the same networks. PyTorch runs eagerly, with as many threads as the machine has cores.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reports import tell

ROOT = Path(__file__).parents[1]
ACTIONS = (
    "dit forward",
    "dit training",
    "dit sampling",
    "unet forward",
    "unet training",
    "vae forward",
    "vae decode",
    "vae training",
)
STEPS, GUIDANCE = 50, 3.0


def write_inputs(folder: Path) -> None:
    """What both halves see."""
    rng = np.random.default_rng(0)
    arrays = {
        "z": rng.standard_normal((16, 16, 16, 4)),
        "noise": rng.standard_normal((16, 16, 16, 4)),
        "x": rng.uniform(-1, 1, (8, 64, 64, 3)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(folder / "inputs.npz", t=rng.integers(0, 1000, 16), labels=np.arange(16) % 10, **arrays)


def compiled(folder: Path) -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """Our half: NETWORK ACTION, seconds of compilation, what is timed."""
    import jax
    import jax.numpy as jnp
    import optax

    from ldm_jax.diffusion import samplers, schedules
    from ldm_jax.diffusion.guidance import branches, classifier_free
    from ldm_jax.diffusion.prediction import estimate
    from ldm_jax.models import Conditioning, apply
    from ldm_jax.pretrained.parts import load_part
    from ldm_jax.runtime import configure

    configure()
    jax.config.update("jax_enable_compilation_cache", False)
    with np.load(folder / "inputs.npz") as file:
        z, noise, x, t, labels = (jnp.asarray(file[name]) for name in ("z", "noise", "x", "t", "labels"))
    dit, unet, vae = (load_part(folder / name) for name in ("dit", "unet", "vae"))
    optimizer = optax.adamw(1e-5, weight_decay=0.01)
    schedule = schedules.DiscreteBetas("linear", 0.0001, 0.02, 1000)
    t = t.astype(jnp.float32)

    def told(params: Any, z: Any, t: Any, labels: Any) -> Any:
        return apply(dit[0], params, z, t, Conditioning(label=labels))

    def draw(params: Any, z: Any) -> Any:
        # diffusers' "leading" spacing: steps 980, 960, ..., 0 of its table, then the clean image.
        times = np.append((np.arange(STEPS - 1, -1, -1) * (1000 // STEPS) + 1) / 1000, 0.0)

        def denoise(z: Any, t: Any, labels: Any) -> Any:
            eps = told(params, z, jnp.full(len(z), t * 1000 - 1), labels)
            return estimate("eps", eps, z, schedule.alpha(t), schedule.sigma(t))

        guided = classifier_free(branches(denoise, labels, jnp.full_like(labels, 10)), GUIDANCE)
        return samplers.sample(guided, samplers.ddim(), schedule, jnp.asarray(times, jnp.float32), z, jax.random.key(0))

    def training(output: Callable[[Any], Any], target: Any) -> Callable[..., Any]:
        def step(params: Any, state: Any) -> Any:
            loss, gradient = jax.value_and_grad(lambda p: jnp.mean(jnp.square(output(p) - target)))(params)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, loss

        return step

    def rebuilt(p: Any, x: Any) -> Any:
        return apply(vae[0], p, apply(vae[0], p, x, method="encode").mean, method="decode")

    plain: dict[str, tuple[Any, Callable[..., Any], tuple[Any, ...]]] = {
        "dit forward": (dit[1], lambda p, z: told(p, z, t, labels), (z,)),
        "dit sampling": (dit[1], draw, (z,)),
        "unet forward": (unet[1], lambda p, z: apply(unet[0], p, z, t, Conditioning()), (z,)),
        "vae forward": (vae[1], rebuilt, (x,)),
        "vae decode": (vae[1], lambda p, z: apply(vae[0], p, z, method="decode"), (z[: len(x)],)),
    }
    trained = {
        "dit training": (dit[1], training(lambda p: told(p, z, t, labels), noise)),
        "unet training": (unet[1], training(lambda p: apply(unet[0], p, z, t, Conditioning()), noise)),
        "vae training": (vae[1], training(lambda p: rebuilt(p, x), x)),
    }
    for name in ACTIONS:
        start = time.perf_counter()
        if name in plain:
            params, function, arguments = plain[name]
            run = jax.jit(function).lower(params, *arguments).compile()
            seconds = time.perf_counter() - start
            yield name, seconds, lambda run=run, p=params, a=arguments: run(p, *a)
        else:
            params, function = trained[name]
            state = [jax.tree.map(jnp.copy, params), optimizer.init(params)]
            run = jax.jit(function, donate_argnums=(0, 1)).lower(*state).compile()
            seconds = time.perf_counter() - start

            def step(run: Any = run, state: list[Any] = state) -> Any:
                state[0], state[1], loss = run(*state)
                return loss

            yield name, seconds, step


def ours(folder: Path) -> None:
    """Answers like speed_torch.py."""
    import jax
    import jax.numpy as jnp

    todo, compile_seconds = {}, {}
    for name, seconds, run in compiled(folder):
        todo[name], compile_seconds[name] = run, seconds
    print(json.dumps({"jax": jax.__version__, "compile": compile_seconds}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        found = jax.block_until_ready(todo[line.strip()]())
        seconds = time.perf_counter() - start
        mean = float(jnp.mean(jnp.square(found)) if found.ndim else found)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "mean": mean, "memory": memory}), flush=True)


class Half:
    """A process that is asked for one action after the other."""

    def __init__(self, command: list[str], env: dict[str, str]):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=env, **pipes)  # type: ignore[call-overload]
        self.hello = self._line()

    def ask(self, name: str) -> dict[str, Any]:
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self._process.args[1]} ended")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measured(python: str, rounds: int, folder: Path) -> dict[str, Any]:
    """The report."""
    write_inputs(folder)
    torch = str(ROOT / "benchmarks" / "speed_torch.py")
    subprocess.run([python, torch, "save", str(folder)], check=True)
    threads = os.cpu_count() or 1
    halves = {
        "ours": Half([sys.executable, __file__, "--worker", str(folder)], {**os.environ, "PYTHONPATH": str(ROOT)}),
        "diffusers": Half([python, torch, "time", str(folder), str(threads)], dict(os.environ)),
    }
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {half: [] for half in halves} for name in ACTIONS}
    # The first round warms up.
    for _ in range(rounds + 1):
        for name in ACTIONS:
            for half, process in halves.items():
                found[name][half].append(process.ask(name))
    report: dict[str, Any] = {half: process.hello for half, process in halves.items()} | {"cores": threads}
    for process in halves.values():
        process.close()
    compile_seconds = report["ours"].pop("compile")
    report["networks"] = {}
    for name, both in found.items():
        first = {half: answers[0]["mean"] for half, answers in both.items()}
        seconds = {half: float(np.median([one["seconds"] for one in answers[1:]])) for half, answers in both.items()}
        report["networks"][name] = {
            **{f"{half}, s": round(value, 4) for half, value in seconds.items()},
            "times as fast": round(seconds["diffusers"] / seconds["ours"], 2),
            "compile, s": round(compile_seconds[name], 1),
            "apart": round(abs(first["ours"] / first["diffusers"] - 1.0), 6),
        }
    report["peak memory, MiB"] = {half: round(found[ACTIONS[-1]][half][-1]["memory"]) for half in halves}
    return report


def bars(report: dict[str, Any], path: Path) -> None:
    """How many times as fast as PyTorch, as bars beside the line at 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    names = list(report["networks"])[::-1]
    ratios = [report["networks"][name]["times as fast"] for name in names]
    figure = Figure(figsize=(7, 3), layout="constrained", dpi=130)
    axes = figure.subplots()
    axes.barh(names, ratios, color=["#2a7f62" if ratio >= 1 else "#b5524a" for ratio in ratios])
    for i, ratio in enumerate(ratios):
        axes.text(ratio - 0.03, i, f"{ratio:.2f}", va="center", ha="right", color="white")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(0, max(ratios) * 1.15)
    axes.set_xlabel(f"times as fast as PyTorch {report['diffusers']['torch']} (JAX {report['ours']['jax']}, CPU)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("LDM_JAX_TORCH_PYTHON"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return ours(options.worker)
    if not options.python:
        parser.error("--python: name one with torch and diffusers (or set LDM_JAX_TORCH_PYTHON)")
    with tempfile.TemporaryDirectory() as folder:
        report = measured(options.python, options.rounds, Path(folder))
    tell(report, options.out)
    if options.picture:
        bars(report, options.picture)


if __name__ == "__main__":
    main()
