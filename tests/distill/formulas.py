"""Every logit algorithm as its paper's formula, written out row by row in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from edufast.distill import TeacherOutputs
from tests.distill.cases import (
    BATCH,
    columns,
    cross_entropy,
    kl,
    possible,
    read,
    rows_of,
    weight_of,
)


def averaged(outputs: TeacherOutputs, logits: Tensor, of_row) -> Tensor:
    """Mean over the rows of the weighted sum over the teachers of ``of_row(z, t, k, row)``."""
    terms = [
        weight_of(outputs, k, row) * of_row(*rows_of(outputs, logits, k, row), k, row)
        for row in range(BATCH)
        for k in range(len(outputs.logits))
        if read(outputs, k, row)
    ]
    return torch.stack(terms).sum() / BATCH


def soft_kl(temperature: float):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / temperature, 0), torch.softmax(z / temperature, 0)
        return temperature**2 * kl(p, q)

    return of_row


def kd(outputs, logits, labels):
    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(outputs, logits, soft_kl(4.0))


def reverse_kl(outputs, logits, labels):
    def of_row(z, t, k, row):
        return soft_kl(4.0)(*possible(z, t)[::-1], k, row)

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(outputs, logits, of_row)


def js(outputs, logits, labels):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / 4, 0), torch.softmax(z / 4, 0)
        middle = (p + q) / 2
        return 16 * (kl(p, middle) + kl(q, middle)) / 2

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(outputs, logits, of_row)


def dkd(outputs, logits, labels):
    def of_row(z, t, k, row):
        p, q = torch.softmax(t / 4, 0), torch.softmax(z / 4, 0)
        y = columns(outputs, k).index(int(labels[row]))
        rest = torch.arange(len(t)) != y
        target = kl(torch.stack([p[y], 1 - p[y]]), torch.stack([q[y], 1 - q[y]]))
        other = kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum())
        return 16 * (target + 8 * other)

    return cross_entropy(logits, labels) + averaged(outputs, logits, of_row)


def standardised(outputs, logits, labels):
    def of_row(z, t, k, row):
        def score(x):
            return (x - x.mean()) / (x.var(unbiased=False) + 1e-7).sqrt()

        z, t = possible(z, t)
        return soft_kl(2.0)(score(z), score(t), k, row)

    return 0.1 * cross_entropy(logits, labels) + 9 * averaged(outputs, logits, of_row)


def mse(outputs, logits, labels):
    def of_row(z, t, k, row):
        z, t = possible(z, t)
        return (((z - z.mean()) - (t - t.mean())) ** 2).mean()

    return 0.3 * cross_entropy(logits, labels) + 0.7 * averaged(outputs, logits, of_row)


def dist(outputs, logits, labels):
    def pearson(a, b):
        both = torch.stack([a, b])
        return torch.corrcoef(both)[0, 1] if bool((both.std(1) > 0).all()) else torch.tensor(0.0)

    loss = cross_entropy(logits, labels)
    for k, answer in enumerate(outputs.logits):
        part = outputs.rows[k] if outputs.weighting == "routed" else slice(None)
        q = torch.softmax(answer[part].double(), 1)
        p = torch.softmax(logits[part].double()[:, columns(outputs, k)], 1)
        if outputs.slices is None:
            p = torch.softmax(logits[part].double(), 1)
        rows = torch.stack([pearson(a, b) for a, b in zip(p, q, strict=True)]).mean()
        by_column = torch.stack([pearson(a, b) for a, b in zip(p.T, q.T, strict=True)]).mean()
        share = len(p) / BATCH if outputs.weighting == "routed" else 1 / len(outputs.logits)
        loss = loss + share * ((1 - rows) + (1 - by_column))
    return loss


FORMULAS = {f.__name__: f for f in (kd, reverse_kl, js, dkd, dist, standardised, mse)}
