"""The reference of DIST, and cpp with it, against the correlations of NumPy."""

from __future__ import annotations

import numpy
import pytest
import torch

from edufast.ops import dist_loss
from tests.ops.dist_cases import Case, inputs


def test_the_formula_is_the_correlation_of_probabilities():
    z, t = inputs(Case(rows=9, classes=6, dtype=torch.float64))
    p, q = (torch.softmax(x / 2, 1).numpy() for x in (z, t))
    rows = numpy.mean([numpy.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = numpy.mean([numpy.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    expected = 4 * (1.5 * (1 - rows) + 0.5 * (1 - columns))
    for backend in ("reference", "cpp"):
        ours = dist_loss(z, t, temperature=2.0, beta=1.5, gamma=0.5, backend=backend)
        assert ours.item() == pytest.approx(expected, abs=1e-5)  # the epsilon of 1e-8 is in it
