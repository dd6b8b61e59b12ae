"""The tables in these pages that are read off the code.

python docs/tables.py        writes them into docs/samplers.md and docs/diffusion.md; a test fails where they are old
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs import reach  # noqa: E402
from ldm_jax.diffusion import samplers  # noqa: E402

ORDERS: tuple[str, ...] = (
    "ddim()",
    "euler()",
    "euler('t')",
    "heun()",
    "heun('rho')",
    "heun('t')",
    "midpoint()",
    "midpoint('t')",
    "rk4()",
    "rk4('t')",
    "edm(s_churn=0.0)",
    "dpm_2()",
    "dpmpp_2s()",
    "dpmpp_2m()",
    "dpmpp_2m('exact')",
    "dpmpp_3m()",
    "dpmpp_3m('published')",
    "dpm_solver(2, 'dpmsolver')",
    "dpm_solver(3, 'dpmsolver')",
    "dpm_solver_single(2, lower_order_final=False, euler_at_final=False)",
    "dpm_solver_single(3, lower_order_final=False, euler_at_final=False)",
    "dpm_solver_single(3, 'x0', lower_order_final=False, euler_at_final=False)",
    "deis(2)",
    "deis(3)",
    "lms()",
    "plms()",
    "unipc(1, lower_order_final=False)",
    "unipc(2, lower_order_final=False)",
    "unipc(2, 'bh1', lower_order_final=False)",
    "unipc(3, lower_order_final=False)",
    "unipc(3, corrector=False, lower_order_final=False)",
    "ddim(0.5)",
    "ddpm()",
    "ddpm('large')",
    "euler_ancestral()",
    "euler_maruyama(last='none')",
    "edm(2.0, s_min=0.0, s_noise=1.0)",
    "dpm_2_ancestral()",
    "dpmpp_2s_ancestral()",
    "dpmpp_sde()",
    "dpmpp_2m_sde()",
    "dpmpp_3m_sde()",
    "dpm_solver(2, 'sde-dpmsolver')",
    "dpm_solver_single(2, 'x0', eta=1.0, lower_order_final=False, euler_at_final=False)",
)
"""Calls of `ldm_jax.diffusion.samplers`; the table shows their `order`, and
tests/diffusion/test_convergence.py measures it."""

LIBRARY_ONLY = {
    "editing.add_noise": "the start of `image_to_image`",
    "editing.image_to_image": "`LatentDiffusion.edit` begins with the noise that `sample` does, so that they agree",
    "editing.tiled": "a canvas larger than the network's; a model draws what its network was trained on",
    "guidance.autoguidance": "takes a second model; `LatentDiffusion.denoise` gives the denoiser of each",
    "guidance.classifier": "takes a classifier of noisy latents, which nothing here trains",
    "guidance.compose": "takes several conditions at once, each with its denoiser from `LatentDiffusion.denoise`",
    "likelihood.bits_per_dim": "of `log_likelihood`",
    "likelihood.log_likelihood": "for models of the data themselves: the density of latents says nothing of images",
    "prediction.convert": "for networks distilled into another prediction; `process.loss` converts in training",
    "samplers.adaptive.sample_adaptive": "takes a tolerance in place of steps and a grid",
    "schedules.zero_terminal_snr": "an experiment names its results: `Rescaled`, and `zero_snr` of `DiscreteBetas`",
}
"""Public functions that no experiment, model or command comes to, and why."""


def sampler(call: str) -> samplers.Sampler:
    """The sampler that one of ORDERS makes."""
    return eval(call, dict(vars(samplers)))


def orders() -> str:
    """ORDERS by what their samplers claim."""
    rows = defaultdict[samplers.Order, list[str]](list)
    for call in ORDERS:
        order = sampler(call).order
        assert order is not None, call
        rows[order].append(f"`{call}`")
    lines = ["| error | order | with equal steps | samplers |", "| --- | --- | --- | --- |"]
    for order in sorted(rows, key=lambda order: (order.kind, order.value, order.start or 0)):
        lines.append(f"| {order.kind} | {order.value} | {order.start or order.value} | {', '.join(rows[order])} |")
    return "\n".join(lines)


def short(node: reach.Node) -> str:
    """A definition's name within diffusion/: "grids.karras"."""
    return f"{node.module.removeprefix('ldm_jax.diffusion.')}.{node.name}"


def reached() -> str:
    """Every public function of diffusion/, and how it is reached."""
    routes = reach.routes()
    lines = ["| function | reached by |", "| --- | --- |"]
    for node in reach.public():
        lines.append(
            f"| `{short(node)}` | {routes.get(node) or 'library only: ' + LIBRARY_ONLY.get(short(node), '?')} |"
        )
    return "\n".join(lines)


TABLES = {"samplers.md": ("orders", orders), "diffusion.md": ("reach", reached)}


def written(page: str, name: str, table: str) -> str:
    """The page with a table in the place that is marked for it."""
    begin, end = f"<!-- table: docs/tables.py {name} -->\n", f"<!-- end of {name} -->"
    head, rest = page.split(begin)
    return f"{head}{begin}\n{table}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Writes every table."""
    for file, (name, make) in TABLES.items():
        page = ROOT / "docs" / file
        page.write_text(written(page.read_text(), name, make()))


if __name__ == "__main__":
    main()
