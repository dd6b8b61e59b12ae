"""Which code on which machine made a number."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("ldm-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "pillow")


def software() -> dict[str, Any]:
    """Versions, the git revision that the package runs from ("+" where files are changed, None if unknown), devices."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.devices()[0]
    return {"versions": versions, "git": git_revision(), "device": f"{jax.device_count()} x {device.device_kind}"}


def git_revision(folder: Path = Path(__file__).parent) -> str | None:
    """The commit checked out in `folder`, with a "+" where tracked files are changed; None outside of git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
