"""The mathematics of diffusion on arrays: schedules, predictions, losses, grids, samplers, guidance, editing.

Here belongs what is a formula of arrays and numbers, and the small dataclasses by which an experiment chooses among
formulas (`process.py`, the `*_choices.py` files, `weightings.py`). Networks, parameters, data and files do not: a
network is seen as denoise(z, t) alone.
"""
