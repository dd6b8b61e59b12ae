"""The page: Gradio's controls around a `Studio`."""

from __future__ import annotations

import base64
import html
import io
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from gradio import themes
from PIL import Image

from ldm_jax import images
from ldm_jax.diffusion.samplers import SAMPLER_CHOICES
from ldm_jax.errors import InputError
from ldm_jax.pipeline import name_of
from ldm_jax.web.drawing import SEED, Asked, Drawn, Progress, Studio, told
from ldm_jax.web.explaining import COLUMNS, explain

log = logging.getLogger("ldm_jax")

SHOWN = 256
"""Pixels of a picture's side up to which it is enlarged in the browser."""
PREVIEW = 96
"""Likewise, of a preview."""
CSS = f".pixels img {{ image-rendering: pixelated; min-width: min({SHOWN}px, 100%); }} footer {{ display: none; }}"
FONTS = ["system-ui", "sans-serif"]
"""Of the visitor's own machine: the page loads nothing from elsewhere."""
IN_TURN = "each in turn"

Shown = tuple[Any, str, Any]
"""What a drawing changes on the page: the gallery, the line below it, the settings of its pictures."""


class Page:
    """The page of one model."""

    def __init__(self, studio: Studio, folder: Path):
        """folder: where pictures lie while the page runs."""
        self.studio, self.folder = studio, folder
        self._count = 0

    def blocks(self) -> gr.Blocks:
        """The page, not yet served."""
        model, limits = self.studio.model, self.studio.limits
        with gr.Blocks(title=f"ldm_jax: {self.studio.name}", analytics_enabled=False) as page:
            gr.Markdown(f"# {html.escape(self.studio.name)}\n{self._summary()}")
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    self._controls()
                with gr.Column(scale=2):
                    self.gallery = gr.Gallery(
                        label="Pictures",
                        show_label=False,
                        buttons=["download"],
                        columns=4,
                        object_fit="contain",
                        format="png",
                        elem_classes="pixels",
                        height=420,
                    )
                    self.line = gr.HTML(elem_id="line")
                    self.settings = gr.State([])
                    self.chosen = gr.JSON(label="Settings of the chosen picture", visible=False)
                    self.restore = gr.Button("Take over these settings", visible=False, size="sm")
            with gr.Tabs():
                if not (model.paints or model.enlarges):
                    self._draw_tab()
                    self._edit_tab()
                if not model.enlarges:
                    self._paint_tab()
                if model.enlarges:
                    self._enlarge_tab()
                if not (model.paints or model.enlarges):
                    self._between_tab()
                    self._explain_tab()
            self.gallery.select(self._select, [self.settings], [self.chosen, self.restore], queue=False)
            self.restore.click(self._take_over, [self.chosen], self.controls, queue=False)
        return page.queue(max_size=limits.queue, default_concurrency_limit=1)

    def _summary(self) -> str:
        model = self.studio.model
        h, w, _ = model.shape
        told_of = [f"{model.num_classes} classes"] if model.num_classes else []
        told_of += ["texts"] if model.text is not None else []
        return f"{h} x {w} pixels; it is told {' and '.join(told_of) or 'nothing'}."

    def _controls(self) -> None:
        model, limits, sampling = self.studio.model, self.studio.limits, self.studio.model.sampling
        classes, texts = [IN_TURN, *model.class_names], model.text is not None
        self.label = gr.Dropdown(
            classes, value=IN_TURN, label="Class", visible=bool(model.num_classes), elem_id="label"
        )
        self.prompt = gr.Textbox(label="Prompt", visible=texts, max_length=limits.text, elem_id="prompt")
        self.negative = gr.Textbox(label="Not", visible=texts, max_length=limits.text)
        self.num = gr.Slider(1, limits.images, value=min(4, limits.images), step=1, label="Pictures", elem_id="num")
        self.steps = gr.Slider(1, limits.steps, value=min(sampling.steps, limits.steps), step=1, label="Steps")
        self.guidance = gr.Slider(
            0.0, min(15.0, limits.guidance), value=sampling.guidance, step=0.1, label="Guidance (1: none)"
        )
        self.sampler = gr.Dropdown(
            list(dict.fromkeys([name_of(sampling.sampler), *SAMPLER_CHOICES])),
            value=name_of(sampling.sampler),
            label="Sampler",
        )
        self.seed = gr.Number(value=0, precision=0, minimum=0, maximum=SEED, label="Seed", elem_id="seed")
        self.controls = [
            self.label,
            self.prompt,
            self.negative,
            self.num,
            self.steps,
            self.guidance,
            self.sampler,
            self.seed,
        ]

    def _draws(self, button: gr.Button, method: Callable[..., Iterator[Progress | Drawn]], *more: Any) -> None:
        """A button that draws by `method(asked, *values of more)`."""

        def run(*values: Any) -> Iterator[Shown]:
            asked, others = _asked(values[: len(self.controls)]), values[len(self.controls) :]
            yield from self._show(lambda: method(asked, *others))

        outputs = [self.gallery, self.line, self.settings]
        button.click(run, [*self.controls, *more], outputs, concurrency_id="drawing", api_visibility="private")

    def _draw_tab(self) -> None:
        with gr.Tab("Draw"):
            button = gr.Button("Draw", variant="primary", elem_id="draw")
            self._draws(button, self.studio.draw)
            self.prompt.submit(None, None, None, js="() => document.getElementById('draw').click()")

    def _edit_tab(self) -> None:
        with gr.Tab("Image to image"):
            picture = _upload("Picture", "edit-upload")
            strength = gr.Slider(0.0, 1.0, value=0.6, step=0.05, label="Strength (0: unchanged, 1: drawn from noise)")
            button = gr.Button("Change", variant="primary", elem_id="edit")
            self._draws(button, self.studio.edit, picture, strength)

    def _paint_tab(self) -> None:
        with gr.Tab("Inpainting"):
            editor = gr.ImageEditor(
                label="Picture: paint over what is to be drawn anew",
                type="pil",
                sources=["upload"],
                brush=gr.Brush(colors=["#ff3366"], color_mode="fixed"),
                transforms=[],
                layers=False,
                elem_id="editor",
            )
            paste = gr.Checkbox(value=True, label="Keep the picture's own pixels outside")

            def paint(asked: Asked, editor: Any, paste: bool) -> Iterator[Progress | Drawn]:
                parts = editor if isinstance(editor, dict) else {}
                return self.studio.inpaint(asked, parts.get("background"), parts.get("layers"), paste)

            button = gr.Button("Paint", variant="primary", elem_id="paint")
            self._draws(button, paint, editor, paste)

    def _enlarge_tab(self) -> None:
        with gr.Tab("Super-resolution"):
            picture = _upload("Picture, which is made small first", "enlarge-upload")
            self._draws(gr.Button("Enlarge", variant="primary", elem_id="enlarge"), self.studio.upscale, picture)

    def _between_tab(self) -> None:
        with gr.Tab("Interpolation"):
            other = gr.Number(value=1, precision=0, minimum=0, maximum=SEED, label="Other seed")
            share = gr.Slider(0.0, 1.0, value=0.5, step=0.05, label="From the seed to the other", elem_id="share")
            button = gr.Button("Draw between", variant="primary", elem_id="between")
            self._draws(button, self.studio.interpolate, other, share)

    def _explain_tab(self) -> None:
        with gr.Tab("How it works"):
            gr.Markdown(
                "Training hides an image in noise, **z_t = alpha(t) x0 + sigma(t) eps**, and the network learns to "
                "undo it. Drawing begins with noise alone, at t = 1, and goes down to t = 0 step by step."
            )
            button = gr.Button("Show every step", variant="primary", elem_id="explain")
            with gr.Row():
                curve = gr.LinePlot(x="t", y="value", color="name", title="The schedule", height=240)
                table = gr.Dataframe(label="The columns of the reverse process", interactive=False)
            plain: dict[str, Any] = {
                "show_label": False,
                "format": "png",
                "buttons": ["download"],
                "interactive": False,
            }
            gr.Markdown(f"**Forward process**: a drawn image at t = 0 to 1 in {COLUMNS} steps, decoded")
            forward = gr.Image(label="Forward process", elem_classes="pixels", **plain)
            gr.Markdown("**Reverse process**, decoded: above z_t, below the network's estimate of x0 at that time")
            reverse = gr.Image(label="Reverse process", elem_classes="pixels", **plain)

            def run(*values: Any) -> tuple[Any, ...]:
                try:
                    found = explain(self.studio, _asked(values))
                except InputError as error:
                    raise gr.Error(told(error), print_exception=False) from None
                names = np.array(["t", "alpha", "sigma"])
                lines = pd.DataFrame(found.curve, columns=names).melt("t", var_name="name")
                rows = pd.DataFrame([{k: f"{v:.3f}" for k, v in row._asdict().items()} for row in found.reverse_times])
                return lines, rows, *(_enlarged(picture) for picture in (found.forward, found.reverse))

            outputs = [curve, table, forward, reverse]
            button.click(run, self.controls, outputs, concurrency_id="drawing", api_visibility="private")

    def _show(self, start: Callable[[], Iterator[Progress | Drawn]]) -> Iterator[Shown]:
        """What the page shows while a drawing goes on; what is wrong is a line, and nothing else changes."""
        yield gr.skip(), _bar(0.0, "starting; the first drawing of its kind compiles"), gr.skip()
        try:
            for news in start():
                if isinstance(news, Progress):
                    yield gr.skip(), _bar(news.share, "drawing") + _inline(news.pictures), gr.skip()
                else:
                    yield self._kept(news), f"<p>{len(news.pictures)} in {news.seconds:.1f} s</p>", news.settings
        except Exception as error:
            if not isinstance(error, InputError):
                log.exception("demo: a request failed")
            yield gr.skip(), f"<p role='alert'><b>{html.escape(told(error))}</b></p>", gr.skip()

    def _kept(self, drawn: Drawn) -> list[str]:
        """Files of the pictures, each with its settings in it."""
        files = []
        for picture, settings in zip(drawn.pictures, drawn.settings, strict=True):
            path = self.folder / f"{self._count:06d}.png"
            self._count += 1
            images.write_png(path, picture, settings=settings)
            files.append(str(path))
        return files

    def _select(self, settings: list[dict[str, Any]], event: gr.SelectData) -> tuple[Any, Any]:
        known = isinstance(event.index, int) and 0 <= event.index < len(settings)
        return gr.update(value=settings[event.index] if known else None, visible=known), gr.update(visible=known)

    def _take_over(self, settings: dict[str, Any] | None) -> list[Any]:
        """The controls as they were for a picture."""
        if not isinstance(settings, dict):
            return [gr.skip()] * len(self.controls)
        names, labels, prompts = self.studio.model.class_names, settings.get("labels"), settings.get("prompts")
        return [
            names[labels[0]] if labels else gr.skip(),
            prompts[0] if prompts else gr.skip(),
            settings.get("negative", ""),
            settings["first"] + 1,
            settings["steps"],
            settings["guidance"],
            settings["sampler"],
            settings["seed"],
        ]


def _asked(values: Any) -> Asked:
    label, *others = values
    return Asked(None if label == IN_TURN else label, *others)


def _upload(label: str, name: str) -> gr.Image:
    return gr.Image(label=label, type="pil", image_mode=None, sources=["upload"], elem_id=name)


def _enlarged(picture: np.ndarray, side: int = SHOWN) -> Image.Image:
    """A picture that a browser shows large enough, pixel by pixel."""
    return images.enlarged(picture, max(1, side // picture.shape[0]))


def _inline(pictures: np.ndarray) -> str:
    """Previews within the page itself, so that no file is left of them."""
    file = io.BytesIO()
    _enlarged(images.grid(pictures, 8), PREVIEW).save(file, "PNG")
    return f"<img alt='preview' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _bar(share: float, words: str) -> str:
    return f"<p><progress max='1' value='{share:.3f}' style='width: 100%'></progress> {words}</p>"


def serve(
    studio: Studio,
    host: str,
    port: int | None,
    auth: tuple[str, str] | None = None,
    *,
    started: Callable[[str], Any] = lambda url: None,
) -> None:
    """Serves the page until it is interrupted; started: is told its address.

    port None: the first free one from 7860 on. auth: a user and a password that visitors are asked for.
    """
    with tempfile.TemporaryDirectory(prefix="ldm-jax-demo-") as folder:
        blocks = launch(studio, Path(folder), host, port, auth)
        try:
            started(blocks.local_url or host)
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def launch(studio: Studio, folder: Path, host: str, port: int | None, auth: tuple[str, str] | None = None) -> gr.Blocks:
    """The page, served by a thread; folder: where its pictures lie."""
    # Pillow itself refuses to decode from twice this on; `Limits.upload` says it in words before.
    Image.MAX_IMAGE_PIXELS = studio.limits.pixels
    blocks = Page(studio, folder).blocks()
    blocks.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        allowed_paths=[str(folder)],
        max_file_size=f"{studio.limits.megabytes}mb",
        share=False,
        quiet=True,
        footer_links=[],
        prevent_thread_lock=True,
        css=CSS,
        theme=themes.Default(font=FONTS, font_mono=["monospace"]),
        ssr_mode=False,
        show_error=False,
    )
    return blocks
