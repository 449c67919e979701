"""MLflow; its own settings (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...) hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

_TAG = "edufast.run"
_LONGEST, _AT_ONCE = 500, 100  # of a parameter, and parameters in a request: what servers take


class MLflow:
    """One run of MLflow, in the experiment "edufast" unless MLFLOW_EXPERIMENT_NAME or
    MLFLOW_EXPERIMENT_ID names another."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment("edufast")
        tagged = f"tags.`{_TAG}` = '{identity}'"
        begun = mlflow.search_runs(filter_string=tagged, max_results=1, output_format="list")
        if begun:
            mlflow.start_run(run_id=begun[0].info.run_id)
            return
        mlflow.start_run(run_name=folder.name, tags={_TAG: identity})
        parameters = _flat("", config)
        while some := dict(islice(parameters, _AT_ONCE)):
            mlflow.log_params(some)

    def log(self, values: Mapping[str, float], samples: int) -> None:
        self._mlflow.log_metrics(dict(values), step=samples)

    def close(self) -> None:
        self._mlflow.end_run()


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The keys of nested sections, with dots between them."""
    if not isinstance(value, Mapping):
        yield key, str(value)[:_LONGEST]
        return
    for name, inner in value.items():
        yield from _flat(f"{key}.{name}" if key else name, inner)
