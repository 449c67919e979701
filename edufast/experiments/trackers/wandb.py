"""Weights & Biases; its own settings (WANDB_PROJECT, WANDB_MODE=offline, ...) hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WeightsAndBiases:
    """One run of Weights & Biases, in the project "edufast" unless WANDB_PROJECT names another."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "edufast",
            name=folder.name,
            id=identity,
            resume="allow",
            dir=folder,
            config=dict(config),
        )
        self._run.define_metric("*", step_metric="samples")

    def log(self, values: Mapping[str, float], samples: int) -> None:
        self._run.log({**values, "samples": samples})

    def close(self) -> None:
        self._run.finish()
