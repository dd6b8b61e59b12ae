"""What one GPU makes of this library: training steps, sampling, autoencoders, in one JSON.

    python benchmarks/gpu.py --out report.json [--tiny] [--only SECTION ...] [--minutes 7]

Unattended; no section begins after --minutes, but one that has begun is not cut off. Sections, in this order: machine
(bf16 products and copies, measured), dit (S/2, B/2, XL/2 at 256 tokens: a whole training step with AdamW and EMA,
bf16 arithmetic, batches until memory is full), attention (cuDNN's against XLA's), fsdp (against pmap, on the one
device), sampling (50 guided steps of XL/2), vae (f8 at 256 px: encode, decode, training), unet (Stable Diffusion 1.5's:
training, 50 guided steps), quickstart (train.py), remat (and scan). Each writes its figures as soon as it has
them; one that fails leaves its error, the next goes on. Model FLOP/s are those of matrix products and convolutions in
the jaxpr (`training/flops.py`), recomputation included, over the measured rate of the machine's own matrix products.
--tiny runs the same code in tiny sizes, on any backend.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditions import LabelCondition
from ldm_jax.diffusion import samplers
from ldm_jax.diffusion.guidance import branches, classifier_free
from ldm_jax.diffusion.process import Process
from ldm_jax.models import (
    AutoencoderConfig,
    Conditioning,
    DiTConfig,
    UNetConfig,
    apply,
    make_autoencoder,
    make_denoiser,
)
from ldm_jax.models.attention import forced
from ldm_jax.stages import AutoencoderLoss
from ldm_jax.stages.autoencoder_loss import autoencoder_loss
from ldm_jax.stages.denoiser_loss import denoiser_loss
from ldm_jax.training.parallel import make_strategy
from ldm_jax.training.stage import Training
from ldm_jax.training.step import started, train_step

ROOT = Path(__file__).parents[1]
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "XL": (1152, 28, 16)}
"""Width, depth and heads of DiT (Peebles & Xie 2022, arXiv 2212.09748, table 1)."""


class Text:
    """A condition that is an embedding already."""

    name, dropout, fields, asks, channels = "text", None, ("caption",), (), 0

    def apply(self, params: Any, arrays: Any, keys: Any) -> Conditioning:
        return Conditioning(context=arrays["context"])


def ready(value: Any) -> Any:
    return jax.block_until_ready(value)


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def seconds_queued(function: Callable[[], Any], count: int) -> float:
    """The time of one of `count` calls that are waited for together, so that no call's own overhead is in it."""
    ready(function())
    start = time.perf_counter()
    ready([function() for _ in range(count)])
    return (time.perf_counter() - start) / count


def random_params(module: Any, dtype: Any = np.float32) -> Any:
    """Parameters drawn on the host: compiling an initialisation takes longer than all steps."""
    shapes = jax.eval_shape(lambda key: module.init(key, *module.example_inputs())["params"], jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(shape: Any) -> Any:
        fan = max(int(np.prod(shape.shape[:-1])), 1)
        return jnp.asarray(rng.standard_normal(shape.shape, np.float32) / np.sqrt(fan), dtype)

    return jax.tree.map(draw, shapes)


def peak_gib() -> float | None:
    """The most memory that was in use so far."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 2**30 if "peak_bytes_in_use" in stats else None


class Bench:
    """The report, and what the sections share."""

    def __init__(self, out: Path, tiny: bool, deadline: float):
        self.out, self.tiny, self.deadline = out, tiny, deadline
        device = jax.devices()[0]
        self.report: dict[str, Any] = {"device": device.device_kind, "backend": jax.default_backend()}
        self.report |= {"jax": jax.__version__, "tiny": tiny, "date": time.strftime("%Y-%m-%d")}

    def note(self, section: str, name: str, value: Any) -> None:
        """Keeps a figure, on disk at once."""
        self.report.setdefault(section, {})[name] = value
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.report, indent=2) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {section} {name}: {json.dumps(value)}", flush=True)

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    @property
    def rate(self) -> float:
        """bf16 FLOP/s of the machine's matrix products, as measured."""
        return self.report["machine"]["matmul_tflops"] * 1e12

    def machine(self) -> None:
        n = 512 if self.tiny else 8192
        a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
        product = jax.jit(lambda a, b: a @ b)
        self.note("machine", "matmul_tflops", 2 * n**3 / seconds_queued(lambda: product(a, b), 20) / 1e12)
        words = 2**20 if self.tiny else 2**30
        x = jax.random.normal(jax.random.key(0), (words,), jnp.float32)
        copy = jax.jit(lambda x: x + 1.0)
        self.note("machine", "copy_tb_per_s", 2 * 4 * words / seconds_queued(lambda: copy(x), 5) / 1e12)

    def training(self, module: Any, loss: Any, batch: Any, params: Any, strategy: str = "pmap", **options: Any) -> Any:
        """Figures of a whole training step."""
        training = Training(learning_rate=1e-4)
        optimizer = training.make_optimizer()
        step = functools.partial(train_step, loss_fn=loss, optimizer=optimizer, ema=0.999)
        made, key = make_strategy(strategy, step, **options), jax.random.key(1)
        state = made.create(lambda key, params: started(params, optimizer), key, params)
        placed = made.put(batch)
        # Counted on a step of its own: cuDNN's attention hides its products, and a traced step would be kept.
        with forced("xla"):
            counted = make_strategy(strategy, functools.partial(step), **options)
            flops = counted.flops(state, placed, key, None)
        start = time.perf_counter()
        state, metrics = ready(made.step(state, placed, key, None))
        first, times = time.perf_counter() - start, []
        for _ in range(6):
            start = time.perf_counter()
            state, metrics = ready(made.step(state, placed, key, None))
            times.append(time.perf_counter() - start)
        took = float(np.median(times[1:]))
        assert np.isfinite(float(metrics["loss"])) and float(metrics["skipped"]) == 0
        n = len(jax.tree.leaves(batch)[0])
        figures = {"ms": took * 1e3, "images_per_s": n / took, "tflops": flops / took / 1e12, "first_step_s": first}
        return {**figures, "utilisation": flops / took / self.rate, "peak_gib": peak_gib()}, state

    def dit_parts(self, size: str, batch: int, scan: bool = False, remat: bool = False) -> tuple[Any, Any, Any, Any]:
        width, depth, heads = (64, 2, 2) if self.tiny else SIZES[size]
        config = DiTConfig(4, 4, 2, width, depth, heads, num_classes=1000, dtype="bfloat16", scan=scan, remat=remat)
        module, side = make_denoiser(config), 8 if self.tiny else 32
        rng = np.random.default_rng(0)
        mean = rng.standard_normal((batch, side, side, 4)).astype(np.float32)
        label = {"label": {"label": rng.integers(0, 1000, batch).astype(np.int32)}}
        data = {"mean": mean, "logvar": mean - 5.0, "index": np.arange(batch, dtype=np.int32), "conditions": label}
        classes = LabelCondition(tuple(map(str, range(1000))), 0.1)
        loss = denoiser_loss(module, Process(), jnp.zeros(4), jnp.ones(4), (classes,))
        return module, loss, data, {"denoiser": random_params(module)}

    def dit(self) -> None:
        batches = (2,) if self.tiny else (64, 128, 256, 512)
        for size in ("XL", "B", "S"):
            for batch in batches:
                name = f"DiT-{size}/2 batch {batch}"
                try:
                    self.note("dit", name, self.training(*self.dit_parts(size, batch))[0])
                except Exception as error:
                    self.note("dit", name, {"error": str(error).splitlines()[0][:160]})
                    break
                if self.late():
                    return

    def attention(self) -> None:
        names = ("xla",) if jax.default_backend() == "cpu" else ("cudnn", "xla")
        for name in names:
            with forced(name):
                parts = self.dit_parts("XL", 2 if self.tiny else 128)
                self.note("attention", f"DiT-XL/2 {name}", self.training(*parts)[0])

    def remat(self) -> None:
        for options in ({"scan": True}, {"remat": True}):
            parts = self.dit_parts("XL", 2 if self.tiny else 128, **options)
            params = parts[3]
            if "scan" in options:
                from ldm_jax.models import stack_blocks

                plain = self.dit_parts("XL", 2)[3]["denoiser"]
                params = {"denoiser": stack_blocks(plain)}
            self.note("remat", f"DiT-XL/2 {next(iter(options))}", self.training(*parts[:3], params)[0])

    def fsdp(self) -> None:
        found = {}
        for strategy in ("pmap", "fsdp"):
            parts = self.dit_parts("B", 2 if self.tiny else 128)
            figures, found[strategy] = self.training(*parts, strategy=strategy)
            self.note("fsdp", strategy, figures)
        pairs = zip(*(jax.tree.leaves(found[name].params) for name in ("pmap", "fsdp")), strict=True)
        self.note("fsdp", "largest difference", max(float(jnp.abs(a - b).max()) for a, b in pairs))

    def draw(self, module: Any, params: Any, cond: Conditioning, null: Conditioning, side: int, batch: int) -> float:
        process, steps = Process(), 2 if self.tiny else 50
        sampler, grid = samplers.euler(), jnp.linspace(1.0, 0.0, steps + 1)

        @jax.jit
        def run(params: Any, z: Any, key: Any) -> Any:
            def denoise(z: Any, t: Any, cond: Any) -> Any:
                network = functools.partial(apply, module, params, cond=cond)
                return process.denoise(lambda z, t: network(z, jnp.broadcast_to(t, z.shape[:1])))(z, t)

            guided = classifier_free(branches(denoise, cond, null), 4.0)
            return samplers.sample(guided, sampler, process.schedule, grid, z, key)

        z = jax.random.normal(jax.random.key(2), (batch, side, side, 4))
        return batch / seconds(lambda: run(params, z, jax.random.key(3)), 3)

    def sampling(self) -> None:
        batch, side = (2, 8) if self.tiny else (32, 32)
        module = self.dit_parts("XL", 2)[0]
        labels = jnp.arange(batch)
        told = Conditioning(label=labels), Conditioning(label=jnp.full(batch, 1000))
        params = random_params(module, jnp.bfloat16)
        self.note("sampling", "DiT-XL/2 images_per_s", self.draw(module, params, *told, side, batch))

    def unet(self) -> None:
        small = {"channels": (32, 64), "attention": (1, 0), "heads": (2, 2), "groups": 8, "blocks": 1}
        config = UNetConfig(4, 4, context_dim=768, dtype="bfloat16", **(small if self.tiny else {}))
        module, side, batch = make_denoiser(config), 16 if self.tiny else 64, 2 if self.tiny else 16
        rng = np.random.default_rng(0)
        mean = rng.standard_normal((batch, side, side, 4)).astype(np.float32)
        context = rng.standard_normal((batch, 77, 768)).astype(np.float32)
        data = {"mean": mean, "logvar": mean - 5.0, "index": np.arange(batch, dtype=np.int32)}
        data["conditions"] = {"text": {"context": context}}
        process = Process(prediction="eps")
        loss = denoiser_loss(module, process, jnp.zeros(4), jnp.ones(4), (Text(),))  # type: ignore[arg-type]
        figures, _ = self.training(module, loss, data, {"denoiser": random_params(module)})
        self.note("unet", f"training, batch {batch}", figures)
        half = max(batch // 2, 1)
        told = [Conditioning(context=jnp.asarray(x[:half])) for x in (context, context[::-1])]
        speed = self.draw(module, random_params(module, jnp.bfloat16), told[0], told[1], side, half)
        self.note("unet", "50 guided steps, images_per_s", speed)

    def vae(self) -> None:
        small = {"channels": 16, "multipliers": (1, 2), "groups": 4, "blocks": 1}
        config = AutoencoderConfig(3, 4, dtype="bfloat16", **(small if self.tiny else {}))
        module, side, batch = make_autoencoder(config), 32 if self.tiny else 256, 2 if self.tiny else 16
        params = random_params(module)
        x = jax.random.uniform(jax.random.key(0), (batch, side, side, 3), minval=-1.0)
        encode = jax.jit(lambda p, x: apply(module, p, x, method="encode").mean)
        z = encode(params, x)
        self.note("vae", "encode_images_per_s", batch / seconds(lambda: encode(params, x)))
        decode = jax.jit(lambda p, z: apply(module, p, z, method="decode"))
        self.note("vae", "decode_images_per_s", batch / seconds(lambda: decode(params, z)))
        data = {"image": np.asarray(x), "index": np.arange(batch, dtype=np.int32)}
        loss = autoencoder_loss(module, AutoencoderLoss())
        self.note("vae", f"training, batch {batch}", self.training(module, loss, data, {"autoencoder": params})[0])

    def quickstart(self) -> None:
        more = ["--smoke"] if self.tiny else []
        folder = self.out.parent / "quickstart"
        command = [sys.executable, "train.py", "configs/quickstart.py", "--workdir", str(folder), *more]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        if done.returncode:
            raise RuntimeError(" ".join(done.stderr.split())[-300:])
        self.note("quickstart", "wall_s", time.perf_counter() - start)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().split("\n") if line]
        last = {line["stage"]: line for line in lines}
        kept = ("images_per_second", "tflops_per_second", "flops_utilization", "test_psnr", "test_loss")
        for stage, line in last.items():
            self.note("quickstart", stage, {name: line[name] for name in kept if name in line})


SECTIONS = ("machine", "dit", "attention", "fsdp", "sampling", "vae", "unet", "quickstart", "remat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--minutes", type=float, default=7.0, help="no section begins later than this")
    options = parser.parse_args()
    bench = Bench(options.out, options.tiny, time.monotonic() + 60 * options.minutes)
    for section in ("machine", *(name for name in options.only if name != "machine")):
        if bench.late():
            bench.note(section, "error", "left out, for time was up")
            continue
        start = time.monotonic()
        try:
            getattr(bench, section)()
        except Exception as error:
            bench.note(section, "error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        bench.note(section, "section_s", time.monotonic() - start)


if __name__ == "__main__":
    main()
