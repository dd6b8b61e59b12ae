"""What runs logged, as curves over their steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.errors import InputError
from ldm_jax.files import whole

PANELS = (("loss", "test_loss"), ("psnr", "test_psnr"), ("grad_norm",), ("images_per_second",))
"""What is drawn of each stage, a panel each; the second one is of images held out, dashed."""
WIDTH, HEIGHT = 4.0, 3.0
"""Of a panel, in inches."""

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Stage -> what was logged -> its steps and values."""


def metrics_of(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without what a kill cut off."""
    path = run / "metrics.jsonl"
    for line in path.read_text("utf-8", errors="replace").split("\n") if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int):
            yield row


def read_curves(run: Path) -> Curves:
    """All numbers that a run logged; InputError where there are none."""
    curves: Curves = {}
    for row in metrics_of(run):
        stage = curves.setdefault(row["stage"], {})
        for name, value in row.items():
            if name not in ("stage", "step") and isinstance(value, (int, float)):
                stage.setdefault(name, []).append((row["step"], float(value)))
    if not curves:
        raise InputError(
            f"run: {run} has no line in metrics.jsonl yet; name the folder of a run that trains or trained"
        )
    return curves


def plot(runs: Mapping[str, Curves], path: Path) -> None:
    """Writes one PNG: a row for each stage, a panel for each of PANELS, a colour for each run, by name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(stage for curves in runs.values() for stage in curves))
    rows = [[panel for panel in PANELS if _has(runs.values(), stage, panel[0])] for stage in stages]
    columns = max(map(len, rows))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), columns, squeeze=False)
    for stage, panels, places in zip(stages, rows, axes, strict=True):
        for place in places[len(panels) :]:
            place.set_visible(False)
        for names, place in zip(panels, places, strict=False):
            _panel(place, stage, names, runs)
    if len(runs) > 1:
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)))
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _has(runs: Any, stage: str, name: str) -> bool:
    return any(name in curves.get(stage, {}) for curves in runs)


def _panel(place: Any, stage: str, names: Sequence[str], runs: Mapping[str, Curves]) -> None:
    for i, (run, curves) in enumerate(runs.items()):
        for name in names:
            points = curves.get(stage, {}).get(name)
            if points:
                held_out = name.startswith("test_")
                style = {"linestyle": "--", "marker": "."} if held_out else {"label": run}
                place.plot(*zip(*points, strict=True), color=f"C{i % 10}", linewidth=1.2, **style)
    dashed = any(name in curves.get(stage, {}) for name in names[1:] for curves in runs.values())
    place.set_title(f"{stage}: {names[0].replace('_', ' ')}" + (" (dashed: held out)" if dashed else ""), fontsize=9)
    place.tick_params(which="both", labelsize=8)
    place.grid(alpha=0.3)
    values = [v for curves in runs.values() for name in names for _, v in curves.get(stage, {}).get(name, ())]
    # Losses and norms fall by powers of ten; decibels and rates don't.
    if names[0] in ("loss", "grad_norm") and min(values) > 0:
        place.set_yscale("log")
