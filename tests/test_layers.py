"""The layout of the package: imports go downward, without cycles, and every module has tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import edufast

PACKAGE = Path(edufast.__file__).parent
KERNELS = PACKAGE.parent / "kernels"  # installed as edufast.kernels

# From the lowest to the highest. Operators and kernels are one layer: an operator loads its Triton
# kernels when they are first used.
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
HEIGHT = {folder: height for height, layer in enumerate(LAYERS) for folder in layer}

TESTS = Path(__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by name, without the top-level ones: they may import anything."""
    found = {}
    for name, folder in (("edufast", PACKAGE), ("edufast.kernels", KERNELS)):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([name, *(p for p in parts if p != "__init__")])] = path
    return {name: path for name, path in found.items() if name.count(".")}


def imports(name: str, path: Path, known: set[str], *, lazy: bool) -> Iterator[str]:
    """Modules of the package that ``name`` imports; with ``lazy`` also inside functions."""
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


def test_every_folder_is_in_a_layer() -> None:
    folders = {name.split(".")[1] for name in modules()} - {"__main__"}
    assert folders == set(HEIGHT)


def test_no_module_imports_upward() -> None:
    found = modules()
    upward = [
        f"{name} imports {other}"
        for name, path in found.items()
        if (folder := name.split(".")[1]) in HEIGHT
        for other in imports(name, path, set(found), lazy=True)
        if HEIGHT[other.split(".")[1]] > HEIGHT[folder]
    ]
    assert not upward


def test_there_are_no_import_cycles() -> None:
    found = modules()
    needs = {name: set(imports(name, path, set(found), lazy=False)) for name, path in found.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(needs[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in found:
        visit(name, ())


def test_every_module_has_a_test_file_of_its_name() -> None:
    missing = []
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE)
        if module.stem.startswith("__"):
            continue
        namesake = TESTS / module.parent / f"test_{module.stem.lstrip('_')}.py"
        if not namesake.exists():
            missing.append(f"{module}: no {namesake.relative_to(TESTS.parent)}")
    assert not missing
