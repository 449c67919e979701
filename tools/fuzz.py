"""Fuzz what reads a kind of file, guided by coverage: `pip install atheris`, then

    python tools/fuzz.py "event log" [libFuzzer's options, such as -max_total_time=60]

The kinds are those of tests/fuzz.py. An input that is neither read nor refused in one line ends it,
and is kept as a file crash-... in the current folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fuzz import TARGETS


def functions() -> Iterator[FunctionType]:
    """Those of EduFast. (What atheris instruments as it is imported, an editable install hides.)"""
    modules = [module for name, module in sys.modules.items() if name.startswith("edufast.")]
    for module in modules:
        scopes = [module, *(x for x in vars(module).values() if isinstance(x, type))]
        for value in (value for scope in scopes for value in vars(scope).values()):
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                yield value


def main() -> None:
    kind, *options = sys.argv[1:]
    for function in set(functions()):
        atheris.instrument_func(function)
    target = TARGETS[kind]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        original, folder, seeds = (Path(scratch, name) for name in ("original", "changed", "seeds"))
        os.environ["EDUFAST_CACHE"] = str(Path(scratch, "cache"))
        original.mkdir()
        seeds.mkdir()
        target.write(original)
        shutil.copy(original / target.path, seeds / "seed")
        expected = target.read(original)

        def read(content: bytes) -> None:
            shutil.copytree(original, folder)
            (folder / target.path).write_bytes(content)
            target.check(folder, expected)
            shutil.rmtree(folder)

        atheris.Setup([sys.argv[0], str(seeds), *options], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
