"""What a model is used for, a file a task: how z is drawn where it is more than noise and a condition.

Here belongs what one use needs beyond a condition, as pure functions of a denoise function and a sampling plan; what a
denoiser must be trained with for it is a condition (conditions/). `LatentDiffusion` has a method for each, which turns
images into arrays and back. To add a task, write its file with a frozen dataclass that has `draw`.
"""

from ldm_jax.tasks.base import Generate, Task
from ldm_jax.tasks.classify import Classified, Rounds
from ldm_jax.tasks.edit import Edit
from ldm_jax.tasks.inpaint import Inpaint
from ldm_jax.tasks.invert import Invert

__all__ = ["Classified", "Edit", "Generate", "Inpaint", "Invert", "Rounds", "Task"]
