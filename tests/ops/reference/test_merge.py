"""What merge_ means, against an fp64 truth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from edufast.ops.reference.merge import Merge, reference
from tests.ops.merge_cases import FLOATS, after, merges

EPSILON = {d: torch.finfo(d).eps for d in FLOATS}


@given(merges())
@settings(max_examples=300, deadline=None)
def test_reference_is_the_weighted_sum(m: Merge) -> None:
    lists = [m.sources[n * len(m.targets) :][: len(m.targets)] for n in range(len(m.weights))]
    for i, (target, got) in enumerate(zip(m.targets, after(reference, m), strict=True)):
        sources = [tensors[i] for tensors in lists]
        rows = sources[0].shape[0] if target.dim() else None
        head, rest = (got[:rows], got[rows:]) if target.dim() else (got, got[None][1:])
        old = target[:rows] if target.dim() else target
        if target.dtype in FLOATS:
            terms = [m.keep * old.double()]
            terms += [w * s.double() for w, s in zip(m.weights, sources, strict=True)]
            truth = sum(terms)
            size = sum(term.abs() for term in terms)
            eps = 4 * EPSILON[torch.float32] if target.dtype != torch.float64 else 1e-14
            if any(s.dtype == torch.float64 for s in sources):
                eps = EPSILON[target.dtype]
            bound = size * (eps + EPSILON[target.dtype]) + 1e-7
            assert ((head.double() - truth).abs() <= bound).all()
        else:
            assert torch.equal(head, torch.stack(sources).amax(0))
        unfilled = not m.fill or math.isnan(m.fill[i])
        if target.dim():
            expected = target[rows:] if unfilled else torch.full_like(rest, m.fill[i])
            assert torch.equal(rest, expected)


def test_what_the_operator_refuses_the_reference_refuses():
    with pytest.raises(ValueError, match=r"^merge_: targets\[0\] has shape \(2,?\)"):
        reference([torch.zeros(2)], [torch.zeros(3)], [1.0], 0.0, [], [], [])
