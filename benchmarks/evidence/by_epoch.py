"""KD whose temperature and share of labels change between epochs, for photographs_by_epoch.yaml."""

from __future__ import annotations

from collections.abc import Sequence

from edufast.distill import KD


class KDByEpoch(KD):
    """KD with a temperature and an alpha for each epoch, counted over all grades."""

    def __init__(self, temperatures: Sequence[float], alphas: Sequence[float]) -> None:
        super().__init__(temperatures[0], alphas[0])
        self.temperatures, self.alphas = temperatures, alphas

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.temperature, self.alpha = self.temperatures[epoch], self.alphas[epoch]
