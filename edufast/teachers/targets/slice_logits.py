"""The logits of slice teachers for a batch, and what targets are put together with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SliceLogits(NamedTuple):
    """What K teachers of disjoint classes say about a batch of B samples.

    A class that is taught only in a later grade is left out, although its teacher knows it.

    Attributes:
        logits: K tensors (B, C_k) float32.
        columns: K tensors (C_k,) int64, the position of each of these logits among the student's.
        owners: (B,) int64, which of the K teachers knows the sample's class; -1: none.
        labels: (B,) int64, position of each sample's class among the student's logits.
        classes: C, the number of the student's logits.
    """

    logits: list[Tensor]
    columns: list[Tensor]
    owners: Tensor
    labels: Tensor
    classes: int

    @property
    def owned(self) -> Tensor:
        """(B, K) bool: whether the teacher knows the sample's class."""
        return self.owners[:, None] == torch.arange(len(self.logits), device=self.owners.device)

    def assemble(self, parts: Sequence[Tensor]) -> Tensor:
        """(B, C) from a tensor (B, C_k) for each teacher; -inf for classes that none knows."""
        target = parts[0].new_full((len(parts[0]), self.classes), -torch.inf)
        return target.index_copy_(1, torch.cat(self.columns), torch.cat(list(parts), 1))

    def gated(self, rest: Tensor, leak: float, temperature: float) -> Tensor:
        """A mixture of the teachers' softened distributions, with weights by the sample's class.

        The teacher that knows the class has the weight ``1 - leak``, and the others share ``leak``
        in proportion to ``rest``; if there are no others, it has the weight 1. If no teacher knows
        the class, all share 1.

        Args:
            rest: (B, K), sums to 1 over the teachers that do not know the sample's class.
            leak: weight of these teachers, in [0, 1).
            temperature: T.

        Returns:
            (B, C) logits; their softmax at T is the mixture.

        Raises:
            ValueError: ``leak`` is out of range.
        """
        if not 0 <= leak < 1:
            raise ValueError(f"leak is {leak}; expected a number in [0, 1)")
        own = self.owned
        others = torch.where(own.any(1, keepdim=True), leak, 1.0) * rest
        weights = torch.where(own, 1 - leak, others)
        log_weights = (weights / weights.sum(1, keepdim=True)).log()
        return self.assemble(
            [
                temperature * (torch.log_softmax(t / temperature, 1) + log_weights[:, k, None])
                for k, t in enumerate(self.logits)
            ]
        )
