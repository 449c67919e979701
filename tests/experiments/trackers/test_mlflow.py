"""MLflow, by a package of the same functions: the real one asks for a server."""

from __future__ import annotations

import pytest

from tests.experiments.trackers import fakes
from tests.experiments.trackers.events import CONFIG


def logged(monkeypatch, folder, begun=(), config=CONFIG):
    return fakes.logged(
        monkeypatch, folder, "mlflow", lambda _, calls: fakes.mlflow(calls, begun), config
    )


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def test_it_gets_flat_parameters_and_every_point_at_its_samples(tmp_path, monkeypatch):
    calls = logged(monkeypatch, tmp_path / "mine")
    assert calls.of("set_experiment") == [(("edufast",), {})]
    ((_, begun),) = calls.of("start_run")
    assert begun["run_name"] == "mine"
    (((parameters,), _),) = calls.of("log_params")
    assert parameters == {"recipe.name": "r", "recipe.training.lr": "0.1", "seeds": "[0]"}
    assert [keywords["step"] for _, keywords in calls.of("log_metrics")] == [100, 320, 640, 640]
    assert calls[-1][0] == "end_run"


def test_a_resumed_run_goes_on_and_keeps_its_parameters(tmp_path, monkeypatch):
    ((_, first),) = logged(monkeypatch, tmp_path).of("search_runs")
    calls = logged(monkeypatch, tmp_path, begun=["r7"])
    ((_, asked),) = calls.of("search_runs")
    assert asked["filter_string"] == first["filter_string"]
    assert calls.of("start_run") == [((), {"run_id": "r7"})]
    assert not calls.of("log_params")


def test_parameters_are_as_many_and_as_long_as_servers_take(tmp_path, monkeypatch):
    config = {f"k{n}": "x" * 10_000 for n in range(250)}
    sent = [given for (given,), _ in logged(monkeypatch, tmp_path, (), config).of("log_params")]
    assert [len(some) for some in sent] == [100, 100, 50]
    assert max(len(value) for some in sent for value in some.values()) == 500


def test_a_name_in_the_environment_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert not logged(monkeypatch, tmp_path).of("set_experiment")
