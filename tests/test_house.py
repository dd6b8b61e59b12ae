"""How the package is laid out: rooms that say what belongs in them, files and functions that can be read in one go."""

import ast
import importlib
import importlib.metadata
from pathlib import Path

import pytest

import ldm_jax

PACKAGE = Path(ldm_jax.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_belongs_in_it_and_what_does_not(room):
    text = " ".join((importlib.import_module(f"ldm_jax.{room}").__doc__ or "").split())
    assert "Here belong" in text
    # What does not is said by naming the rooms where it is, or in so many words.
    assert any(f"{other}/" in text for other in ROOMS if other != room) or "do not" in text


def test_files_are_short():
    long = {path.name: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize("room", ["training", "stages", "pipeline"])
def test_functions_are_short(room):
    long = {}
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (lines := node.end_lineno - node.lineno + 1) > 60:
                long[f"{path.name}:{node.name}"] = lines
    assert not long


def test_public_names_say_what_they_are():
    """Functions, classes and their methods; a method may leave it to the base or protocol that has one of its name."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    told = {
        method.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
    } | {"setup"}  # Flax's own
    silent = []
    for path, tree in trees.items():
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        for node in public:
            silent += [] if ast.get_docstring(node) else [f"{path.name}: {node.name}"]
            methods = node.body if isinstance(node, ast.ClassDef) else []
            silent += [
                f"{path.name}: {node.name}.{method.name}"
                for method in methods
                if isinstance(method, ast.FunctionDef)
                and not method.name.startswith("_")
                and not ast.get_docstring(method)
                and method.name not in told
            ]
    assert not silent


def test_it_is_typed_and_has_a_version():
    assert (PACKAGE / "py.typed").exists()
    assert ldm_jax.__version__ == importlib.metadata.version("ldm-jax")
