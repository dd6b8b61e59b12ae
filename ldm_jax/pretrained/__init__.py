"""Between our pytrees and files that others read, both directions."""

from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.pretrained.parts import load_part, save_part
from ldm_jax.pretrained.schedulers import SamplingPlan, from_diffusers_scheduler, to_diffusers_scheduler

__all__ = ["SamplingPlan", "from_diffusers_scheduler", "load_lpips", "load_part", "save_part", "to_diffusers_scheduler"]
