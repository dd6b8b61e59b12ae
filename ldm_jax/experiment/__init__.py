"""An experiment run in a folder: the parts that a config describes, the stages that train them, the model at the end.

Here belongs what puts the rooms together: which parts are new and which are given, the order of the stages, the run's
folder. What a stage is lies in stages/, how it is trained in training/.
"""

from ldm_jax.experiment.run import Run, StageName

__all__ = ["Run", "StageName"]
