"""How many threads are worth starting."""

import os


def available_cores() -> int:
    """The cores that this process may use: a container's or a job's share rather than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
