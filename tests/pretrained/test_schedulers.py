"""diffusers' schedulers retraced: trajectories against tests/reference/diffusers_schedulers.npz.

One in forty of the cases runs always (5, 20 and 50 steps take turns in the list, so all three are among them), and the
first of every scheduler; the others are marked slow: `pytest -m slow tests/pretrained/test_schedulers.py`.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import samplers, schedules
from ldm_jax.diffusion.prediction import Estimate, estimate
from ldm_jax.diffusion.samplers.base import run
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import from_diffusers_scheduler
from tests.pretrained.scheduler_cases import config, final, network

FILE = Path(__file__).parents[1] / "reference" / "diffusers_schedulers.npz"
with np.load(FILE) as data:
    CASES = json.loads(data["index"].tobytes())["cases"]
    WIDE, NARROW = data["float64"], data["float32"]
ENDS = np.cumsum([case["length"] for case in CASES])


def noise(index):
    return np.random.default_rng(1000 + index).standard_normal((1, 2, 1, 1)).reshape(1, 2)


@pytest.fixture(autouse=True)
def few_programs(request):
    """A thousand compiled programs in one process run into the system's limit of memory maps, and XLA crashes."""
    yield
    RUN.append(request.node.name)
    if len(RUN) % 200 == 0:
        COMPILED.clear()
        jax.clear_caches()


RUN: list[str] = []
KINDS = ("eps", "x0", "v")
COMPILED = {}


def given(case, dtype):
    """(step, k) -> the noise that the script gave the scheduler, in the order in which that draws it."""
    count, steps = (2, 2 * case["steps"]) if "DPMSolverSDE" in case["config"]["_class_name"] else (1, case["steps"])
    table = jnp.asarray(np.stack([noise(i) for i in range(steps)]), dtype)
    # DPMSolverSDE draws for its stage first, which is our k = 1.
    return lambda index, k: table[jnp.minimum(count * index + (count - 1 - k), steps - 1)]


def program(plan, case, dtype):
    """A compiled function of a kind's number; for a schedule of knots of all but the sampler: one for many configs."""
    knots = isinstance(plan.schedule, schedules.Knots)
    outside = ("timestep_spacing", "steps_offset", "use_", "timestep_type", "rescale", "beta_") if knots else ()
    # PNDM averages what the network predicts, so its sampler is another one for another prediction.
    outside += () if "PNDM" in case["config"]["_class_name"] else ("prediction_type",)
    own = {k: v for k, v in case["config"].items() if not k.startswith(outside)}
    key = (json.dumps(own), case["steps"], str(dtype), plan.prediction in KINDS or str(plan.prediction), knots)
    if key not in COMPILED:
        scaled, fixed = in_sigma(own), plan.schedule

        def go(schedule, grid, start, kind):
            schedule = fixed if schedule is None else schedule

            def denoise(z, t):
                if kind is None:
                    return plan.denoise(network)(z, t)
                alpha, sigma = schedule.alpha(t), schedule.sigma(t)
                output = network(z, schedules.timestep(schedule, t))
                every = [estimate(one, output, z, alpha, sigma) for one in KINDS]
                return jax.tree.map(lambda *parts: jnp.stack(parts)[kind], *every)

            def units(z, estimate, at):
                return z / at.schedule.alpha(at.s) if scaled else z

            draw = given(case, dtype)
            return run(denoise, plan.sampler, schedule, grid, start, jax.random.key(0), noise=draw, observe=units)[1]

        COMPILED[key] = jax.jit(go)
    return COMPILED[key]


def retrace(case, dtype, compat="diffusers"):
    """Our samples after each step, in the scheduler's units: [n, 2]."""
    config, steps = case["config"], case["steps"]
    seq_len = 1024 if config.get("use_dynamic_shifting") else None
    plan = from_diffusers_scheduler(config, steps, compat, image_seq_len=seq_len)
    start = plan.initial(jnp.asarray(noise(-1), dtype))
    schedule = plan.schedule if isinstance(plan.schedule, schedules.Knots) else None
    kind = KINDS.index(plan.prediction) if plan.prediction in KINDS else None
    return np.asarray(program(plan, case, dtype)(schedule, plan.grid, start, kind)).reshape(-1, 2)


def in_sigma(config):
    name = config["_class_name"]
    return "FlowMatch" not in name and any(part in name for part in ("Euler", "Heun", "KDPM2", "LMS", "SDE"))


def label(case):
    config = case["config"]
    hidden = ("_class_name", "beta_start", "beta_end", "beta_schedule")
    own = ",".join(f"{k}={v}" for k, v in config.items() if k not in hidden)
    return f"{config['_class_name'].removesuffix('Scheduler')}[{own}]-{case['steps']}"


def fast(each):
    """One case in `each`, and the first of every scheduler."""
    names = [case["config"]["_class_name"] for case in CASES]
    return {*range(0, len(CASES), each), *(names.index(name) for name in set(names))}


def some(each):
    """All cases as parameters, those that are not in `fast` marked slow."""
    always = fast(each)
    marks = [() if i in always else (pytest.mark.slow,) for i in range(len(CASES))]
    return [pytest.param(i, id=label(CASES[i]), marks=mark) for i, mark in enumerate(marks)]


def error(got, want):
    """The largest error of a sample over its largest element."""
    return np.max(np.abs(got - want) / np.abs(want).max(axis=-1, keepdims=True))


@pytest.mark.parametrize("i", some(40))
def test_retraces_diffusers_in_float64(i):
    want = WIDE[ENDS[i] - CASES[i]["length"] : ENDS[i]]
    with jax.enable_x64(True):
        assert error(retrace(CASES[i], jnp.float64), want) < 1e-6


@pytest.mark.parametrize("i", some(100))
def test_retraces_diffusers_in_float32(i):
    """Within 1e-4 of the exact sample; so of diffusers' own in float32, unless that is itself further off than 1e-4."""
    got, exact = retrace(CASES[i], jnp.float32)[-1], WIDE[ENDS[i] - 1]
    assert error(got, exact) < 1e-4
    assert error(got, NARROW[i]) < 1e-4 or error(NARROW[i], exact) > 1e-4


def test_every_scheduler_and_step_count_is_in_the_fast_part():
    assert {CASES[i]["config"]["_class_name"] for i in fast(40)} == {case["config"]["_class_name"] for case in CASES}
    assert {CASES[i]["steps"] for i in fast(40)} == {5, 20, 50}


# The quirks: what compat="diffusers" does, and what is done without it.


def gaussian_error(plan):
    """How far the plan takes the ODE of Gaussian data (mean 0.5, std 0.3) from its exact end."""
    schedule, spread = plan.schedule, 0.3

    def denoise(z, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        centred = (z - alpha * 0.5) / (alpha**2 * spread**2 + sigma**2)
        return Estimate(0.5 + alpha * spread**2 * centred, sigma * centred)

    first, last = plan.grid[0], plan.grid[-1]
    z = plan.initial(jnp.asarray([[1.3, -0.4]]))
    got = samplers.sample(denoise, plan.sampler, schedule, plan.grid, z, jax.random.key(0))

    def std(t):
        return jnp.sqrt((schedule.alpha(t) * spread) ** 2 + schedule.sigma(t) ** 2)

    want = schedule.alpha(last) * 0.5 + std(last) / std(first) * (z - schedule.alpha(first) * 0.5)
    return float(jnp.abs(got - want).max())


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("name", ["DDIM", "PNDM"])
def test_prev_timestep_is_corrected(name, spacing):
    """If all data are one point, eps stays the same, unless a step ends at a level that the next doesn't expect."""
    own = config(name, timestep_spacing=spacing, set_alpha_to_one=True, clip_sample=False, skip_prk_steps=True)

    def wander(compat):
        plan = from_diffusers_scheduler(own, 30, compat)

        def denoise(z, t):
            return Estimate(jnp.full_like(z, 0.5), (z - plan.schedule.alpha(t) * 0.5) / plan.schedule.sigma(t))

        z = plan.initial(jnp.ones((1, 1)))
        see = lambda z, estimate, at: estimate.eps  # noqa: E731
        _, eps = samplers.sample(denoise, plan.sampler, plan.schedule, plan.grid, z, jax.random.key(0), observe=see)
        return float(jnp.ptp(eps))

    with jax.enable_x64(True):
        assert wander(None) < 1e-9
        assert wander("diffusers") > 1e-3


@pytest.mark.parametrize("name", ["DDIM", "PNDM"])
def test_the_end_is_clean_unless_compatible(name):
    own = config(name, set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True)
    assert final(from_diffusers_scheduler(own, 20)) == 0.0
    table = schedules.DiscreteBetas()
    assert final(from_diffusers_scheduler(own, 20, "diffusers")) == pytest.approx(
        float(table.sigma(jnp.asarray(0.001)))
    )


def test_leading_past_the_table():
    own = config("DDIM", timestep_spacing="leading", steps_offset=1)
    assert float(from_diffusers_scheduler(own, 1000).grid[0]) == 1.0
    with pytest.raises(InputError, match="steps_offset: 1"):
        from_diffusers_scheduler(own, 1000, "diffusers")


def test_double_shift_of_flow_matching():
    own = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert float(from_diffusers_scheduler(own, 28).grid[-2]) == pytest.approx(0.003 / 1.002, rel=1e-4)
    assert float(from_diffusers_scheduler(own, 28, "diffusers").grid[-2]) == pytest.approx(0.00892, rel=1e-3)


def test_timesteps_are_not_rounded_by_default():
    own = config("DPMSolverMultistep", use_karras_sigmas=True)
    ours, theirs = from_diffusers_scheduler(own, 20), from_diffusers_scheduler(own, 20, "diffusers")
    given = [np.asarray(schedules.timestep(plan.schedule, plan.grid[:-1])) for plan in (ours, theirs)]
    assert np.allclose(given[1], np.round(given[1]), atol=1e-3)
    assert 0.1 < np.abs(given[0] - given[1]).max() < 0.6


def test_zero_terminal_snr_is_exact_by_default():
    own = config(
        "UniPCMultistep", rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    assert float(from_diffusers_scheduler(own, 10).schedule.alpha(jnp.ones(()))) == 0.0
    theirs = from_diffusers_scheduler(own, 10, "diffusers")
    assert float(theirs.schedule.alpha(theirs.grid[0])) == pytest.approx(2.0**-12, rel=1e-3)
    for plan in (from_diffusers_scheduler(own, 10), theirs):
        out = retrace({"config": own, "steps": 10}, jnp.float32, None if plan is not theirs else "diffusers")
        assert np.all(np.isfinite(out))


def test_third_order_is_third_order_by_default():
    own = config("DPMSolverMultistep", solver_order=3, final_sigmas_type="sigma_min", use_lu_lambdas=True)
    with jax.enable_x64(True):
        theirs, ours = (gaussian_error(from_diffusers_scheduler(own, 50, compat)) for compat in ("diffusers", None))
    assert ours < 0.5 * theirs


def test_deis_finishes_by_default():
    own = config("DEISMultistep", use_flow_sigmas=True, prediction_type="flow_prediction")
    assert final(from_diffusers_scheduler(own, 10)) == 0.0
    assert final(from_diffusers_scheduler(own, 10, "diffusers")) > 0.05


def test_unipc_starts_a_flow_at_pure_noise():
    own = config("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction")
    assert float(from_diffusers_scheduler(own, 10).grid[0]) == 1.0
    with jax.enable_x64(True):
        assert float(from_diffusers_scheduler(own, 10, "diffusers").grid[0]) == pytest.approx(1 - 1e-6, abs=1e-9)
    assert np.all(np.isfinite(retrace({"config": own, "steps": 10}, jnp.float32, None)))
