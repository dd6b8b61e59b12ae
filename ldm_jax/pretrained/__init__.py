"""Between our pytrees and files that others read, both directions.

Here belongs what one part's file or folder looks like: names, layouts, configs, schedulers, tokenizers, adapters. Whole
pipelines are put together in pipeline/, networks and their arithmetic are in models/.
"""

from ldm_jax.pretrained.lpips import load_lpips
from ldm_jax.pretrained.parts import load_part, save_part
from ldm_jax.pretrained.schedulers import SamplingPlan, from_diffusers_scheduler, to_diffusers_scheduler

__all__ = ["SamplingPlan", "from_diffusers_scheduler", "load_lpips", "load_part", "save_part", "to_diffusers_scheduler"]
