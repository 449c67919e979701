"""Packages of trackers that ask for an account or a server, with the functions that are called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edufast.experiments.trackers.registry import tracking
from tests.experiments.trackers.events import ALL, CONFIG


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """What was called, in order."""

    def made(self, name: str, result: Any = None) -> Any:
        """A function that notes its calls."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.append((name, arguments, keywords))
            return result

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, keywords) for called, arguments, keywords in self if called == name]


def run_module(name: str, calls: Calls) -> ModuleType:
    """``wandb`` or ``trackio``: ``init`` returns a run."""
    module = ModuleType(name)
    run = SimpleNamespace(
        log=calls.made("log"),
        finish=calls.made("finish"),
        define_metric=calls.made("define_metric"),
    )
    module.init = calls.made("init", run)  # type: ignore[attr-defined]
    return module


def mlflow(calls: Calls, begun: Iterable[str]) -> ModuleType:
    """A server that knows the runs ``begun``, by their ids."""
    module = ModuleType("mlflow")
    found = [SimpleNamespace(info=SimpleNamespace(run_id=run_id)) for run_id in begun]
    module.search_runs = calls.made("search_runs", found)  # type: ignore[attr-defined]
    for name in ("set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(module, name, calls.made(name))
    return module


def logged(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    name: str,
    fake: Callable[[str, Calls], ModuleType],
    config: Mapping[str, Any] = CONFIG,
) -> Calls:
    """What the tracker ``name`` calls when it hears of all events."""
    calls = Calls()
    monkeypatch.setitem(sys.modules, name, fake(name, calls))
    with tracking([name], folder, config, pytest.fail) as (listener,):
        for event in ALL:
            listener(event)
    return calls
