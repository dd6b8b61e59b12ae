"""What a long run holds on to: memory, open files, threads and memory maps of 2,000 steps with a checkpoint every 20.

    python benchmarks/soak.py [--steps 2000] [--every 20] [--out soak.json]

A denoiser of 8 px pictures is trained by train.py in a process of its own (Linux); the figures are medians of the
second and of the last quarter of its time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from reports import tell

ROOT = Path(__file__).parent.parent


def held(pid: int) -> dict[str, float]:
    """What a process holds now."""
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return {
        "memory, MiB": int(status["VmRSS"].split()[0]) / 1024,
        "open files": len(list((place / "fd").iterdir())),
        "threads": int(status["Threads"]),
        "memory maps": (place / "maps").read_text().count("\n"),
    }


def soak(workdir: Path, steps: int, every: int) -> dict:
    """Trains, and looks at the process twice a second while the denoiser is trained."""
    stage = {"steps": steps, "checkpoint-every": every, "log-every": every, "sample-every": steps}
    options = [word for name, value in stage.items() for word in (f"--stages.denoiser.{name}", str(value))]
    command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "tests" / "weather" / "tiny.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    metrics, seen = workdir / "metrics.jsonl", []
    with subprocess.Popen([*command, "--workdir", str(workdir)], env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.5)
            if metrics.is_file() and '"denoiser"' in metrics.read_text():
                try:
                    seen.append(held(process.pid))
                except (OSError, KeyError):
                    # It has ended between two looks.
                    break
    if process.returncode:
        sys.exit(f"soak: error: the training ended with {process.returncode}")
    quarter = len(seen) // 4
    report: dict = {"steps": steps, "checkpoints": steps // every, "looks": len(seen)}
    for name in seen[0]:
        values = [look[name] for look in seen]
        parts = {"second quarter": values[quarter : 2 * quarter], "last quarter": values[-quarter:]}
        report[name] = {part: round(float(np.median(found)), 1) for part, found in parts.items()}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tell(soak(Path(folder) / "run", options.steps, options.every), options.out)


if __name__ == "__main__":
    main()
