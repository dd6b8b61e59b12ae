"""How every public function of `ldm_jax/diffusion` is reached from outside the library, found in the source.

The nodes are the functions, classes and values that stand at the top of the package's modules, and the methods of
`LatentDiffusion`; an edge is a name that one uses and another has, through whatever imports lie between. Annotations
use nothing. The walk begins at what a user can name: each kind that a field of `Config` may hold, `LatentDiffusion`'s
methods, the commands.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ldm_jax.config import Config
from ldm_jax.pipeline.model import LatentDiffusion
from ldm_jax.serialization import hints_of, item_of, kinds_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ldm_jax"
COMMANDS = ("train", "sample", "evaluate", "classify", "augment", "convert", "inspect")


class Node(NamedTuple):
    """A definition: its module, and its name there ("Class.method" of LatentDiffusion's)."""

    module: str
    name: str


class Module:
    """A module's definitions and imports, read from its source."""

    def __init__(self, path: Path):
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.package = path.name == "__init__.py"
        self.name = ".".join(parts[:-1] if self.package else parts)
        self.definitions: dict[str, ast.AST] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        self._read(ast.parse(path.read_text()).body)

    def _read(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.If):  # TYPE_CHECKING and what runs otherwise
                self._read(statement.body)
                self._read(statement.orelse)
            elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.definitions[statement.name] = statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name) and statement.value is not None:
                            self.definitions[name.id] = statement.value
        for statement in body:
            self.imports |= imports_of(statement) if isinstance(statement, ast.Import | ast.ImportFrom) else {}


def imports_of(node: ast.AST) -> dict[str, tuple[str, str | None]]:
    """{local name: (module, name in it)} of all import statements in a tree; None for a module itself."""
    found: dict[str, tuple[str, str | None]] = {}
    for item in ast.walk(node):
        if isinstance(item, ast.ImportFrom) and item.module:
            found |= {alias.asname or alias.name: (item.module, alias.name) for alias in item.names}
        elif isinstance(item, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, None) for alias in item.names}
    return found


@functools.cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    return {module.name: module for module in map(Module, sorted(PACKAGE.rglob("*.py")))}


def resolve(module: str, name: str, local: dict[str, tuple[str, str | None]] | None = None) -> Node | str | None:
    """What a name means in a module: a definition, a module's dotted name, or None for what is not the package's."""
    if module not in modules():
        return None
    own = modules()[module]
    if not local and name in own.definitions:
        return Node(module, name)
    source = (local or {}).get(name) or own.imports.get(name)
    if source is None:
        return Node(module, name) if name in own.definitions else None
    where, what = source
    if what is None or f"{where}.{what}" in modules():
        return where if what is None else f"{where}.{what}"
    return resolve(where, what) if where in modules() else None


def _used(tree: ast.AST, bound: frozenset[str] = frozenset()) -> Iterator[ast.AST]:
    """All nodes of a tree but annotations, and names that are a function's own."""
    if isinstance(tree, ast.FunctionDef | ast.Lambda):
        bound |= {item.arg for item in ast.walk(tree) if isinstance(item, ast.arg)}
        bound |= {item.id for item in ast.walk(tree) if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)}
    if isinstance(tree, ast.Name) and tree.id in bound:
        return
    yield tree
    for field, value in ast.iter_fields(tree):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _used(child, bound)


def uses(node: Node) -> set[Node]:
    """The definitions that one refers to."""
    owner, _, method = node.name.partition(".")
    tree = modules()[node.module].definitions[owner]
    if method:
        tree = next(item for item in tree.body if getattr(item, "name", "") == method)  # type: ignore[attr-defined]
    local, found = imports_of(tree), set[Node]()

    def meaning(item: ast.AST) -> Node | str | None:
        if isinstance(item, ast.Name):
            return resolve(node.module, item.id, local)
        if isinstance(item, ast.Attribute):
            whole = meaning(item.value)
            if isinstance(whole, str):
                return f"{whole}.{item.attr}" if f"{whole}.{item.attr}" in modules() else resolve(whole, item.attr)
        return None

    for item in _used(tree):
        target = meaning(item)
        if isinstance(target, Node):
            found.add(target)
        elif (
            method and isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self"
        ):
            found |= set(_methods([item.attr]))
    # LatentDiffusion as a class is no use of all that it can do.
    return found - {Node("ldm_jax.pipeline.model", "LatentDiffusion"), Node("ldm_jax.pipeline.uses", "Uses"), node}


def _methods(names: list[str]) -> Iterator[Node]:
    for name in names:
        for cls in LatentDiffusion.__mro__:
            if callable(vars(cls).get(name)) and cls.__module__ in modules():
                yield Node(cls.__module__, f"{cls.__name__}.{name}")
                break


def _fields(cls: type, path: str) -> Iterator[tuple[str, Node]]:
    """(how it is set, what it is) for a dataclass and every kind that its fields may hold."""
    function = getattr(cls, "function", cls)
    yield path, Node(function.__module__, function.__name__)
    for name, hint in hints_of(cls).items():
        kinds = kinds_of(item_of(hint) or hint)
        for kind in kinds:
            below = f"{path}.{name}".lstrip(".")
            if item_of(hint) is not None:
                yield from _fields(kind, f"{below}.{getattr(kind, 'label', kind.__name__)}")
                continue
            word = getattr(kind, "label", kind.__name__)
            for inner, node in _fields(kind, below):
                yield f"{inner} {word}" if inner == below and len(kinds) > 1 else inner, node


def starts() -> list[tuple[str, Node]]:
    """What a user can name, with how: fields of an experiment, methods of a model, commands."""
    found = [(f"`{'--' * (' ' in path)}{path}`", node) for path, node in _fields(Config, "") if path]
    methods = sorted((name for name in dir(LatentDiffusion) if not name.startswith("_")), key=lambda n: n != "sample")
    found += [(f"`LatentDiffusion.{node.name.split('.')[1]}`", node) for node in _methods(methods)]
    found.append(
        ("`ldm_jax.load` of a published scheduler", Node("ldm_jax.pretrained.schedulers", "from_diffusers_scheduler"))
    )
    found += [(f"`{name}.py`", Node(f"ldm_jax.cli.{name}", name)) for name in COMMANDS]
    return [(how, node) for how, node in found if node.module in modules()]


def routes() -> dict[Node, str]:
    """How each definition is reached, by the shortest way from `starts`, the earlier of two that are as long."""
    found: dict[Node, str] = {}
    queue = deque(starts())
    while queue:
        how, node = queue.popleft()
        if node in found or node.name.partition(".")[0] not in modules()[node.module].definitions:
            continue
        found[node] = how
        queue.extend((how, target) for target in sorted(uses(node)))
    return found


def public() -> list[Node]:
    """The public functions and dataclasses of diffusion/, in the order of the files."""
    found = []
    for name, module in modules().items():
        if name.startswith("ldm_jax.diffusion"):
            for own, tree in module.definitions.items():
                kinds = ast.FunctionDef | ast.ClassDef
                if isinstance(tree, kinds) and not own.startswith("_") and _nameable(name, own):
                    found.append(Node(name, own))
    return found


def _nameable(module: str, name: str) -> bool:
    """Functions and dataclasses; named tuples and protocols are what functions take and give."""
    value = getattr(importlib.import_module(module), name)
    return not isinstance(value, type) or "__dataclass_fields__" in vars(value)
