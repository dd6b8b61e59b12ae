"""Models of the Hugging Face Hub by name: hf:ORG/NAME in place of a path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_jax.errors import InputError

PREFIX = "hf:"
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WANTED = ("*.json", "*/*.json", "*/*.txt", "*/*.model", "*.txt", "*/*.safetensors", "*model*.safetensors")
"""What our readers read: folders' parts, and of a part's own repository its weights; no pickle, no second copy of a
whole pipeline in one file."""
OTHERS = ("*.fp16.*", "*non_ema*", "*onnx*", "*flax*", "*openvino*")


def local(path: str | Path, variant: str | None = None) -> Path:
    """The path itself, or of hf:ORG/NAME (hf:ORG/NAME@REVISION) the folder of its copy in the Hub's local cache.

    What is not there yet is downloaded, safetensors alone, by `huggingface_hub` (extra `[hub]`), which reads HF_HOME,
    HF_TOKEN and HF_HUB_OFFLINE. variant: "fp16" for files of that name.

    Raises:
      InputError: the name is none, the library isn't installed, or the Hub neither answers nor is its copy here.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return Path(path)
    name, revision = check_name(text)
    by_hand = f"or download huggingface.co/{name} by hand and name its folder"
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise InputError(f'path: {text} needs huggingface_hub; pip install "ldm-jax[hub]", {by_hand}') from error
    others = [pattern for pattern in OTHERS if variant is None or variant not in pattern]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=others))
    except Exception as error:  # its own errors, those of HTTP libraries and of sockets, which it lets through
        raise InputError(f"path: {text} can't be had ({_reason(error)}); {by_hand}") from error


def check_name(text: str) -> tuple[str, str | None]:
    """ORG/NAME and the revision of hf:ORG/NAME or hf:ORG/NAME@REVISION; InputError for anything else."""
    match = NAME.fullmatch(text)
    if match is None:
        raise InputError(f"path: {text!r} must have the form hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return match[1], match[2]


def api() -> Any:
    """The Hub as whoever HF_TOKEN, or `hf auth login`, says; InputError where nobody is, or without the library."""
    try:
        from huggingface_hub import HfApi, get_token
    except ModuleNotFoundError as error:
        raise InputError('hub: it needs huggingface_hub; pip install "ldm-jax[hub]"') from error
    if get_token() is None:
        raise InputError("hub: there is no token; set HF_TOKEN, or run `hf auth login`")
    return HfApi()


def send(hub: Any, folder: Path, name: str, files: Sequence[str], private: bool) -> None:
    """Those files of a folder as one commit of ORG/NAME, which is made where it is not there; hub: `api()`.

    Raises:
      InputError: the Hub does not answer, or refuses.
    """
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(files))
    except Exception as error:  # as in `local`
        raise InputError(f"hub: {name} can't be written ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """An error in one line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
