"""TensorBoard: ``tensorboard --logdir runs`` shows all runs below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class TensorBoard:
    """Writes TensorBoard's files into ``tensorboard/`` of the run's folder."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=10)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._writer.add_text("config", f"```yaml\n{text}```")

    def log(self, values: Mapping[str, float], samples: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, samples)

    def close(self) -> None:
        self._writer.close()
