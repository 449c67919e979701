"""Teacher outputs are the arguments of a loss, as a Supervision makes them."""

from __future__ import annotations

import torch

from edufast.distill import TeacherOutputs
from edufast.ops import kd_loss
from tests.distill.cases import BATCH, KINDS, draw


def test_they_are_arguments_of_the_operator():
    for kind in KINDS:
        logits, outputs, labels = draw(kind)
        loss = kd_loss(
            logits, outputs.logits, labels, slices=outputs.slices, weighting=outputs.weighting
        )
        assert loss.isfinite(), kind


def test_rows_tell_what_each_teacher_has_looked_at():
    _, outputs, _ = draw("routed")
    assert outputs.slices is not None and len(outputs.logits) == len(outputs.rows)
    for answer, rows in zip(outputs.logits, outputs.rows, strict=True):
        seen = torch.zeros(BATCH, dtype=torch.bool)
        seen[rows] = True
        assert answer[seen].isfinite().all() and answer[~seen].isnan().all()


def test_the_position_in_the_split_is_a_field_and_no_method():
    """``index`` of a tuple is a method; here it is a Tensor, and copies keep it."""
    _, outputs, _ = draw("full")
    assert isinstance(outputs.index, torch.Tensor)
    assert outputs._replace(weighting="routed").index is outputs.index
    assert isinstance(outputs, TeacherOutputs)
