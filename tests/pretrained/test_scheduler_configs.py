"""diffusers' scheduler configs: written and read back, refused in one line, few steps and more than in training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import grids, samplers, schedules
from ldm_jax.diffusion.prediction import Preconditioning
from ldm_jax.errors import InputError
from ldm_jax.pretrained.schedulers import from_diffusers_scheduler, to_diffusers_scheduler
from tests.pretrained.scheduler_cases import config, final, network


@pytest.mark.parametrize(
    ("schedule", "prediction", "names"),
    [
        (schedules.DiscreteBetas(), "eps", ("ddim", "euler", "dpmpp_2m", "unipc", "lms", "plms", "dpm_2", "deis")),
        (schedules.DiscreteBetas("linear", 1e-4, 0.02), "v", ("ddim", "heun", "dpm_solver")),
        (schedules.DiscreteBetas(zero_snr=True), "v", ("ddim", "euler")),
        (schedules.DiscreteBetas(kind="sigmoid", start=1e-4, end=0.02), "x0", ("ddim",)),
        (schedules.RectifiedFlow(), "flow", ("euler", "heun", "dpmpp_2m", "unipc")),
        (schedules.EDM(), Preconditioning(0.5), ("euler", "dpmpp_2m")),
        (schedules.EDM(0.01, 50.0), Preconditioning(1.0, negated=True), ("euler",)),
    ],
)
def test_written_configs_are_read_back(schedule, prediction, names):
    for name in names:
        plan = from_diffusers_scheduler(json.loads(json.dumps(to_diffusers_scheduler(schedule, prediction, name))), 12)
        assert plan.prediction == prediction
        t = jnp.linspace(0.0, 1.0, 50)
        np.testing.assert_allclose(plan.schedule.alpha(t), schedule.alpha(t), atol=1e-5)
        np.testing.assert_allclose(plan.schedule.sigma(t), schedule.sigma(t), rtol=1e-4, atol=1e-5)


def test_continuous_schedules_are_written_as_tables():
    plan = from_diffusers_scheduler(to_diffusers_scheduler(schedules.VP(), "eps"), 10)
    t = jnp.linspace(0.001, 1.0, 50)
    np.testing.assert_allclose(plan.schedule.alpha(t), schedules.VP().alpha(t), atol=2e-3)


def test_shifted_flows_keep_their_shift():
    own = to_diffusers_scheduler(schedules.shift(schedules.RectifiedFlow(), 3.0), "flow", "euler")
    got = from_diffusers_scheduler(own, 10).grid
    np.testing.assert_allclose(got, grids.flow(10, 3.0, last=0.001), rtol=1e-5)


def test_dynamic_shift_needs_the_tokens():
    own = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    with pytest.raises(InputError, match="image_seq_len: None"):
        from_diffusers_scheduler(own, 10)


@pytest.mark.parametrize(
    ("own", "steps", "compat", "message"),
    [
        ({"_class_name": "NoScheduler"}, 10, None, "_class_name: 'NoScheduler' is not one of DDIM"),
        ({}, 10, None, "_class_name: None is not one of DDIM"),
        (config("DDIM"), 0, None, "num_steps: 0 is not"),
        (config("DDIM"), 10, "k-diffusion", "compat: 'k-diffusion' is not one of"),
        (config("DDIM", prediction_type="noise"), 10, None, "prediction_type: 'noise' is not one of epsilon"),
        (config("DDIM", timestep_spacing="even"), 10, None, "timestep_spacing: 'even' is not one of"),
        (config("LMSDiscrete", use_karras_sigmas=True, use_beta_sigmas=True), 10, None, "use_beta_sigmas: True"),
        (
            config("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3),
            10,
            "diffusers",
            "solver_order: 3 with sde-dpmsolver",
        ),
        (config("DPMSolverMultistep", prediction_type="flow_prediction"), 10, None, "does not go with use_flow_sigmas"),
        (config("UniPCMultistep", solver_p="DDIM"), 10, None, "solver_p: "),
        (config("EulerDiscrete", interpolation_type="cubic"), 10, None, "interpolation_type: 'cubic' is not one of"),
        (config("LCM"), 100, None, "num_steps: 100 is more than original_inference_steps: 50"),
        (
            config("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", use_karras_sigmas=True),
            10,
            None,
            "use_flow_sigmas: True does not go with use_karras_sigmas",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(own, steps, compat, message):
    with pytest.raises(InputError, match=message) as caught:
        from_diffusers_scheduler(own, steps, compat)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "own",
    [
        config("KDPM2AncestralDiscrete", use_karras_sigmas=True),
        config("DPMSolverSDE"),
        config("EulerDiscrete", interpolation_type="log_linear"),
        config("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3),
        config("DPMSolverMultistep", algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min"),
    ],
    ids=lambda own: own.get("algorithm_type") or own["_class_name"],
)
def test_what_has_another_path_by_default_is_finite(own):
    plan = from_diffusers_scheduler(own, 8)
    z = plan.initial(jax.random.normal(jax.random.key(0), (1, 2)))
    out = samplers.sample(plan.denoise(network), plan.sampler, plan.schedule, plan.grid, z, jax.random.key(1))
    assert np.all(np.isfinite(out))
    ends_clean = own.get("final_sigmas_type") != "sigma_min" and "interpolation_type" not in own
    assert final(plan) == 0.0 if ends_clean else 0.0 < final(plan) < 0.05


def test_a_network_with_learned_variance_is_taken_apart():
    plan = from_diffusers_scheduler(config("DDPM", variance_type="learned_range"), 5)
    denoise = plan.denoise(lambda x, t: jnp.concatenate([x, jnp.zeros_like(x)], axis=-1))
    got = denoise(jnp.ones((1, 2)), jnp.asarray(0.5))
    assert float(got.variance[0, 0]) == 0.5
    out = samplers.sample(denoise, plan.sampler, plan.schedule, plan.grid, jnp.ones((1, 2)), jax.random.key(0))
    assert np.all(np.isfinite(out))


ONE_STEP = [
    config(name, **options)
    for name in (
        "DDIM",
        "DDPM",
        "EulerDiscrete",
        "HeunDiscrete",
        "DPMSolverMultistep",
        "UniPCMultistep",
        "DEISMultistep",
    )
    for options in (
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "leading"},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    )
] + [
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1},
    {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift_terminal": 0.1},
    {"_class_name": "EDMEulerScheduler", "final_sigmas_type": "sigma_min"},
    config("PNDM", skip_prk_steps=True),
    config("LCM"),
    config("TCD"),
    config("DPMSolverMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", shift_terminal=0.1),
    config("UniPCMultistep", use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="sigma_min"),
]


@pytest.mark.parametrize("own", ONE_STEP, ids=str)
def test_few_steps_start_at_the_noise_and_visit_no_time_twice(own):
    for steps in (1, 2, 3, 20):
        plan = from_diffusers_scheduler(own, steps)
        grid = np.asarray(plan.grid)
        assert np.isfinite(grid).all()
        if "PNDM" not in own["_class_name"]:
            assert len(grid) == steps + 1 and (np.diff(grid) < 0).all()
        # What leading spacing leaves out is the first stretch, of two intervals half of all.
        assert grid[0] > (0.45 if own.get("timestep_spacing", "leading") == "leading" else 0.9)


def test_a_step_of_a_flow_with_a_terminal_shift():
    own = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "shift_terminal": 0.1}
    for compat in (None, "diffusers"):
        np.testing.assert_array_equal(from_diffusers_scheduler(own, 1, compat).grid, [1.0, 0.0])


@pytest.mark.parametrize("compat", [None, "diffusers"])
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_more_steps_than_there_were_in_training(name, spacing, compat):
    with pytest.raises(InputError, match="num_steps: 1500 with timestep_spacing"):
        from_diffusers_scheduler(config(name, timestep_spacing=spacing), 1500, compat)


def test_fractions_of_steps_are_steps():
    grid = np.asarray(from_diffusers_scheduler(config("EulerDiscrete", timestep_spacing="linspace"), 1500).grid)
    assert len(np.unique(grid)) == 1501


@pytest.mark.parametrize("name", ["LCM", "TCD"])
def test_consistency_models_of_more_steps_than_there_were(name):
    with pytest.raises(InputError, match="original_inference_steps: 1500 must be at most num_train_timesteps, 1000"):
        from_diffusers_scheduler(config(name, original_inference_steps=1500), 4)


def test_the_pipelines_own_sigmas_are_as_many_as_the_steps():
    own = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert from_diffusers_scheduler(own, 2, sigmas=[1.0, 0.5]).grid.shape == (3,)
    for wrong in ([1.0, 0.5, 0.2], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(InputError, match="sigmas: they must be num_steps"):
            from_diffusers_scheduler(own, 2, sigmas=wrong)
