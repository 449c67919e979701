"""Where code lives: folders import downward only, and no two modules need each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import edufast

PACKAGE = Path(edufast.__file__).parent
KERNELS = PACKAGE.parent / "kernels"  # installed as edufast.kernels

# From the lowest to the highest. The operators load their Triton kernels when these are asked for;
# both are one layer.
LAYERS = [
    {"utils"},
    {"ops", "kernels"},
    {"data"},
    {"distill"},
    {"models"},
    {"student"},
    {"teachers"},
    {"training"},
    {"edge"},
    {"experiments"},
    {"bench"},
    {"cli"},
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by name; those of the top are free to import anything."""
    found = {}
    for name, folder in (("edufast", PACKAGE), ("edufast.kernels", KERNELS)):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([name, *(p for p in parts if p != "__init__")])] = path
    return {name: path for name, path in found.items() if name.count(".")}


def imports(name: str, path: Path, known: set[str], *, lazy: bool) -> Iterator[str]:
    """Modules of the package that ``name`` imports; ``lazy``: also within functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be a module of its own.
            wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            wanted = [w if w in known else node.module for w in wanted]
        else:
            continue
        yield from (w for w in wanted if w in known and w != name)


def test_every_room_has_its_place() -> None:
    rooms = {name.split(".")[1] for name in modules()} - {"__main__"}
    assert rooms == set(HEIGHT)


def test_no_module_imports_upward() -> None:
    found = modules()
    upward = [
        f"{name} imports {other}"
        for name, path in found.items()
        if (room := name.split(".")[1]) in HEIGHT
        for other in imports(name, path, set(found), lazy=True)
        if HEIGHT[other.split(".")[1]] > HEIGHT[room]
    ]
    assert not upward


def test_no_two_modules_need_each_other() -> None:
    found = modules()
    needs = {name: set(imports(name, path, set(found), lazy=False)) for name, path in found.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(needs[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in found:
        visit(name, ())
