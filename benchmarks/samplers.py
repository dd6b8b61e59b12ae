"""Error against evaluations of every sampler, on data whose denoiser is known: a table and a plot in docs/samplers.md.

    python benchmarks/samplers.py            about 2 minutes on 2 cores; rewrites the table and docs/samplers.png

The data are a mixture of three Gaussians in the plane, the schedule is Stable Diffusion's table of betas, and the grid
has equal steps of log(alpha / sigma) from the table's last level to its first, then t = 0. For samplers of the ODE the
error is the root mean square distance to the ODE's exact end from the same noise. For those of the SDE, whose samples
have no partner, it is the energy distance to true samples, whose noise floor is given.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ldm_jax.diffusion import grids  # noqa: E402
from ldm_jax.diffusion import samplers as S  # noqa: E402
from ldm_jax.diffusion.prediction import Estimate  # noqa: E402
from ldm_jax.diffusion.schedules import DiscreteBetas  # noqa: E402

CENTRES = np.array([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.2]])
SHARES = np.array([0.5, 0.3, 0.2])
SPREAD = 0.25
SCHEDULE = DiscreteBetas()
BUDGETS = (6, 12, 24, 48, 96)
START, END, MARK_START, MARK_END = 2048, 4096, "<!-- table: benchmarks/samplers.py -->", "<!-- end of table -->"

ALL: dict[str, S.Sampler] = {
    "ddim": S.ddim(),
    "euler t": S.euler("t"),
    "heun": S.heun(),
    "heun rho": S.heun("rho"),
    "midpoint": S.midpoint(),
    "rk4": S.rk4(),
    "dpm_2": S.dpm_2(),
    "dpmpp_2s": S.dpmpp_2s(),
    "dpmpp_2m": S.dpmpp_2m(),
    "dpmpp_3m": S.dpmpp_3m(),
    "dpmpp_3m published": S.dpmpp_3m("published"),
    "dpm_solver 3 (single step)": S.dpm_solver_single(3),
    "unipc 2": S.unipc(2),
    "unipc 3": S.unipc(3),
    "deis 3": S.deis(3),
    "lms": S.lms(),
    "plms": S.plms(),
    "ddpm (euler_ancestral)": S.ddpm(),
    "ddpm large": S.ddpm("large"),
    "edm": S.edm(s_churn=10.0, s_noise=1.0),
    "dpm_2_ancestral": S.dpm_2_ancestral(),
    "dpmpp_2s_ancestral": S.dpmpp_2s_ancestral(),
    "dpmpp_sde": S.dpmpp_sde(),
    "dpmpp_2m_sde": S.dpmpp_2m_sde(),
    "dpmpp_3m_sde": S.dpmpp_3m_sde(),
}
ODE, SDE = ({k: s for k, s in ALL.items() if s.order and s.order.kind == kind} for kind in ("strong", "weak"))


def denoise(z, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    square = (alpha * SPREAD) ** 2 + sigma**2
    away = z[:, None, :] - alpha * jnp.asarray(CENTRES)[None]
    share = jax.nn.softmax(jnp.log(jnp.asarray(SHARES)) - 0.5 * (away**2).sum(-1) / square, axis=1)[..., None]
    centred = (share * away).sum(1) / square
    return Estimate((share * jnp.asarray(CENTRES)[None]).sum(1) + alpha * SPREAD**2 * centred, sigma * centred)


def run(sampler: S.Sampler, steps: int, z: jax.Array, grid: jax.Array | None = None) -> jax.Array:
    grid = grids.exponential(SCHEDULE, steps) if grid is None else grid
    return jax.jit(lambda z: S.sample(denoise, sampler, SCHEDULE, grid, z, jax.random.key(1)))(z)


def truth(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CENTRES[rng.choice(len(SHARES), n, p=SHARES)] + SPREAD * rng.standard_normal((n, 2))


def energy(a: np.ndarray, b: np.ndarray) -> float:
    """The energy distance of two clouds: 2 E|a - b| - E|a - a'| - E|b - b'|, under its root."""

    def mean(x, y):
        return float(np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)).mean())

    return max(2 * mean(a, b) - mean(a, a) - mean(b, b), 0.0) ** 0.5


def table(rows: dict[str, S.Sampler], error: Callable[[S.Sampler, int], float]) -> dict[str, list[float]]:
    found = {}
    for name, sampler in rows.items():
        found[name] = [error(sampler, budget // sampler.evaluations) for budget in BUDGETS]
        print(f"{name:28s}", " ".join(f"{value:.2e}" for value in found[name]), flush=True)
    return found


def markdown(found: dict[str, list[float]], rows: dict[str, S.Sampler], of: str) -> str:
    head = f"| {of} | evaluations a step | " + " | ".join(f"{budget} evaluations" for budget in BUDGETS) + " |"
    rule = "|" + "---|" * (len(BUDGETS) + 2)
    body = [f"| {k} | {rows[k].evaluations} | " + " | ".join(f"{x:.1e}" for x in v) + " |" for k, v in found.items()]
    return "\n".join([head, rule, *body])


def plot(ode: dict[str, list[float]], sde: dict[str, list[float]], floor: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 6.5), constrained_layout=True)
    for axis, found, title in (
        (axes[0], ode, "ODE: distance to the exact end"),
        (axes[1], sde, "SDE: energy distance"),
    ):
        for i, (name, values) in enumerate(found.items()):
            style = ("-", "--", ":")[i // 6 % 3]
            axis.loglog(BUDGETS, values, style, marker="o", markersize=3, linewidth=1.2, label=name)
        axis.set(title=title, xlabel="evaluations of the denoiser")
        axis.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].axhline(floor, color="grey", linewidth=0.8, label="true samples")
    for axis in axes:
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=4, frameon=False)
    figure.savefig(ROOT / "docs" / "samplers.png", dpi=110)


def main() -> None:
    began = time.time()
    jax.config.update("jax_enable_x64", True)
    z = jax.random.normal(jax.random.key(0), (START, 2)) * SCHEDULE.sigma(jnp.ones(()))
    fine = grids.exponential(SCHEDULE, 2000, final=None)
    exact = run(S.rk4("rho"), 1999, z, fine)
    # From the table's first level to clean data the path is as good as straight.
    exact = run(S.ddim(), 1, exact, jnp.asarray([fine[-1], 0.0]))
    ode = table(ODE, lambda sampler, steps: float(jnp.sqrt(jnp.mean((run(sampler, steps, z) - exact) ** 2))))
    samples = truth(END, 1)
    floor = energy(truth(START, 2), samples)
    sde = table(SDE, lambda sampler, steps: energy(np.asarray(run(sampler, steps, z)), samples))
    plot(ode, sde, floor)
    text = "\n\n".join(
        [
            MARK_START,
            markdown(ode, ODE, "of the ODE: root mean square distance"),
            markdown(sde, SDE, "of the SDE: energy distance")
            + f"\n\nTrue samples have an energy distance of {floor:.1e}.",
            MARK_END,
        ]
    )
    page = ROOT / "docs" / "samplers.md"
    before = page.read_text()
    head, tail = before[: before.index(MARK_START)], before[before.index(MARK_END) + len(MARK_END) :]
    page.write_text(head + text + tail)
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
