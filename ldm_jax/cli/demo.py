"""demo: a page in the browser where a model is tried."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError


def demo(args: Sequence[str]) -> int:
    """demo MODEL [--host H] [--port N] [--auth USER:PASSWORD]"""
    parser = Parser(prog="ldm-jax demo", description="Serves a page on which a model is tried in a browser.")
    parser.add_argument("model", type=Path, help="a run's folder, its model/, a pipeline folder of diffusers")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine)")
    parser.number("--port", int, least=1, most=65535, help="(default: the first free one from 7860 on)")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for it")
    parser.number("--most-images", int, least=1, default=16, help="of one request (default: 16)")
    parser.number("--most-steps", int, least=1, default=100, help="of one request (default: 100)")
    parser.number("--queue", int, least=1, default=50, help="requests that wait; more are refused (default: 50)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.add_argument("--variant", help="read the files of this variant, such as fp16")
    options = parser.parse_args(args)
    auth = _auth(options.auth)
    # Nothing is sent anywhere.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

    from ldm_jax.cli import version
    from ldm_jax.pipeline import load
    from ldm_jax.web.drawing import Studio
    from ldm_jax.web.limits import Limits

    try:
        from ldm_jax.web.page import serve
    except ModuleNotFoundError as error:
        raise InputError(f'demo: it needs {error.name}; pip install "ldm-jax[demo]"') from error

    limits = Limits(images=options.most_images, steps=options.most_steps, queue=options.queue)
    model = load(options.model, dtype=options.dtype, variant=options.variant)
    studio = Studio(model, str(options.model), f"ldm_jax {version()}", limits)
    try:
        serve(studio, options.host, options.port, auth, started=lambda url: print(url, flush=True))
    except OSError as error:
        raise InputError(f"port: {options.host}:{options.port or 7860} can't be served ({error})") from error
    return 0


def _auth(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise InputError("auth: it must have the form USER:PASSWORD, neither of them empty")
    return user, password
