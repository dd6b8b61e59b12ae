"""push: a model to the Hugging Face Hub, with a model card that holds how it was evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.cli.parsing import Parser
from ldm_jax.errors import InputError
from ldm_jax.files import whole

CARD = "README.md"
SENT = ("model_index.json", CARD, "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model")
"""What a model's folder is made of; nothing else in it is sent."""
HIDDEN = ("path", "spec")
"""Fields of a report that may hold a path of this machine."""


def push(args: Sequence[str]) -> int:
    """push MODEL ORG/NAME [--report report.json] [--license ID] [--private] [--dry-run]"""
    parser = Parser(
        prog="ldm-jax push",
        description="Sends a model to the Hugging Face Hub (extra [hub]; the token of HF_TOKEN or `hf auth login`), "
        "with a model card: what it is, how it was trained, how it was evaluated. A README.md that is in the model's "
        "folder already is sent as it is.",
    )
    parser.add_argument("model", type=Path, help="a run's folder or its model/, or a pipeline of diffusers")
    parser.add_argument("name", metavar="ORG/NAME", help="the repository, made where it is not there yet")
    parser.add_argument("--report", type=Path, help="what `evaluate --out report.json` wrote about this model")
    parser.add_argument("--license", metavar="ID", help="the weights' licence, as the Hub names it, such as mit")
    parser.add_argument("--private", action="store_true", help="a repository that only you see")
    parser.add_argument("--dry-run", action="store_true", help="write the card, tell what would be sent, send nothing")
    options = parser.parse_args(args)

    from ldm_jax.pipeline.layouts import model_folder
    from ldm_jax.pretrained.hub import PREFIX, api, check_name, send

    if check_name(PREFIX + options.name)[1] is not None:
        raise InputError(f"name: {options.name} must have the form ORG/NAME, without a revision")
    model = model_folder(options.model)
    if model is None:
        raise InputError(f"model: {options.model} holds no model_index.json; name a finished run or its model/")
    report = None if options.report is None else read_report(options.report, model)
    hub = None if options.dry_run else api()
    card = model / CARD
    if not card.exists():
        with whole(card) as temporary:
            lines = card_lines(model, options.model, options.name, report, options.license)
            temporary.write_text("\n".join(lines) + "\n")
        print(f"card: {card}")
    elif report is not None or options.license:
        raise InputError(f"model: {card} is there already and is sent as it is; remove it to have a new one written")
    files = sorted({file.relative_to(model).as_posix() for pattern in SENT for file in model.glob(pattern)})
    for file in files:
        print(f"{file}  {(model / file).stat().st_size:,} bytes")
    if hub is not None:
        send(hub, model, options.name, files, options.private)
        print(f"sent: https://huggingface.co/{options.name}")
    return 0


def read_report(path: Path, model: Path) -> Mapping[str, Any]:
    """What evaluate wrote, of this very model; InputError where it is about another or is none."""
    from ldm_jax.evaluation.subjects import hash_weights
    from ldm_jax.pretrained.tensors import read_json

    report = read_json(path)
    subject = report.get("protocol", {}).get("subject") if isinstance(report.get("protocol"), dict) else None
    if not isinstance(subject, dict) or "metrics" not in report:
        raise InputError(f"report: {path} is none of evaluate's")
    if subject.get("weights_hash") != hash_weights(model):
        raise InputError(f"report: {path} is about other weights than those of {model}")
    return report


def card_lines(
    model: Path, given: Path, name: str, report: Mapping[str, Any] | None, licence: str | None
) -> Iterator[str]:
    """A model card in Markdown: metadata, use, parts, training, evaluation."""
    from ldm_jax.cli import version
    from ldm_jax.cli.inspect import described
    from ldm_jax.pretrained.tensors import read_json

    index = read_json(model / "model_index.json")
    ours = index.get("_library") == "ldm_jax"
    kinds = [str(entry.get("type", "")) for entry in index.get("conditions", ())]
    texts = any("Text" in kind for kind in kinds) or "tokenizer" in index
    task = "text-to-image" if texts else "unconditional-image-generation"
    yield from ("---", f"library_name: {'ldm_jax' if ours else 'diffusers'}", f"pipeline_tag: {task}")
    yield from () if licence is None else (f"license: {json.dumps(licence)}",)
    yield from ("tags:", "- latent-diffusion", "- jax", "---", "", f"# {name}", "")
    yield f"A latent diffusion model, written by ldm_jax {version()}. `ldm-jax sample hf:{name}` draws from it; so does"
    told = 'prompts=["..."], ' if texts else ""
    yield from ("", "```python", "import jax, ldm_jax", "", f'model = ldm_jax.load("hf:{name}")')
    yield from (f"images = model.sample(jax.random.key(0), {told}num=4)  # uint8 [4 h w c]", "```", "", "## Parts", "")
    lines = list(described(model))[1:]
    yield from ("```", *(line.removeprefix("  ") for line in lines), "```")
    if (given / "config.json").is_file() and model != given:
        yield from ("", "## Training", "", *training_lines(read_json(given / "config.json")))
    if report is not None:
        yield from ("", "## Evaluation", "", *evaluation_lines(report, name))


def training_lines(config: Mapping[str, Any]) -> Iterator[str]:
    """A run's data and stages; of paths the last name alone."""
    data = config.get("data", {})
    kind, _, where = str(data.get("source", "")).partition(":")
    yield f"Images of {data.get('image_size')} px of `{kind}:{Path(where).name}`, {data.get('batch_size')} a step."
    yield from ("", "| stage | steps | learning rate | optimiser |", "| --- | ---: | ---: | --- |")
    for stage in config.get("stages", ()):
        optimizer = stage.get("optimizer", {})
        kind = optimizer.get("type") if isinstance(optimizer, dict) else optimizer
        name = str(stage.get("type")).removesuffix("Training").lower()
        yield f"| {name} | {stage.get('steps')} | {stage.get('learning_rate')} | {kind} |"


def evaluation_lines(report: Mapping[str, Any], name: str) -> Iterator[str]:
    """The metrics as a table, and everything that they depend on."""
    from ldm_jax.metrics.report import number

    yield from ("| metric | value |", "| --- | ---: |")
    for metric, value in report["metrics"].items():
        yield f"| {metric} | {number(value) if isinstance(value, int | float) else 'not finite'} |"
    notes = report.get("notes") or ()
    yield from ("", *(f"- {note}" for note in notes), *([""] if notes else []))
    yield from ("What these numbers depend on:", "", "```json")
    yield from (json.dumps(without_paths(report["protocol"], name), indent=2), "```")


def without_paths(value: Any, name: str) -> Any:
    """A report's protocol with the model's name in place of its path, and of other paths the last name."""
    if isinstance(value, Mapping):
        return {key: _named(item, name) if key in HIDDEN else without_paths(item, name) for key, item in value.items()}
    return [without_paths(item, name) for item in value] if isinstance(value, list) else value


def _named(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return without_paths(value, name)
    kind, colon, place = value.rpartition(":")
    return f"{kind}{colon}{Path(place).name}" if colon else name
