"""The tables in docs/ that are read off the code are what the code gives."""

import re

import pytest

from docs import reach, tables

DOCS = tables.ROOT / "docs"
NAMED = re.compile(r"\b(?:tests|configs|benchmarks|docs)/[\w/]+\.(?:py|md|json|png)\b")


@pytest.mark.parametrize("file", tables.TABLES)
def test_the_page_holds_what_the_code_gives(file):
    page, (name, make) = (tables.ROOT / "docs" / file).read_text(), tables.TABLES[file]
    assert page == tables.written(page, name, make()), "python docs/tables.py writes it"


def test_every_function_is_reached_or_library_only():
    routes = reach.routes()
    unreached = {tables.short(node) for node in reach.public() if node not in routes}
    assert unreached == set(tables.LIBRARY_ONLY)


def test_what_reaching_means():
    """Names are followed through choices, imports and methods; a name that a function binds itself reaches nothing."""
    routes = {tables.short(node): how for node, how in reach.routes().items()}
    assert routes["guidance.apg"] == "`--sampling.rule apg`"
    assert routes["editing.slerp"] == "`LatentDiffusion.interpolate`"
    node = reach.Node("ldm_jax.diffusion.schedules", "RectifiedFlow")
    assert reach.Node("ldm_jax.diffusion.schedules", "logsnr") not in reach.uses(node)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_files_that_pages_name_exist(page):
    named = set(NAMED.findall((tables.ROOT / page).read_text()))
    assert not {name for name in named if not (tables.ROOT / name).exists()}
