"""How anything is trained: the step, the devices, the loop, checkpoints, records; it knows a `Stage` and nothing else.

Here belongs what is the same whatever is trained. Losses, networks, data and conditions are other rooms' matters, and
meet in stages/.
"""
