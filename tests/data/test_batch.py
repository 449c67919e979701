"""What is known of a batch before its images are made."""

from __future__ import annotations

import numpy as np
import torch

from edufast.data import Augment, numbered_views
from edufast.data.batch import Plan
from tests.remote import Transfer, Transfers


def test_numbers_go_to_a_gpu_together_and_are_not_waited_for():
    samples, labels, more = np.array([3, 1, 2]), np.array([1, 0, 1]), np.array([7, 8, 9])
    plan = Plan(samples, labels, numbered_views(Augment(), samples, more), None, ())
    with Transfers() as transfers:
        there = plan.numbers(torch.device("cuda", 0), more)
    assert transfers.made == [Transfer(pinned=True, non_blocking=True)]
    assert [x.tolist() for x in there] == [[1, 0, 1], [3, 1, 2], [7, 8, 9]]
    assert all(x.dtype == torch.int64 for x in there)


def test_a_batch_has_what_was_planned():
    samples = np.array([3, 1])
    views = numbered_views(Augment(), samples, np.zeros(2, np.int64))
    plan = Plan(samples, np.array([1, 0]), views, torch.tensor([486, 162]), (1, 1))
    images, (labels, index) = torch.zeros(2, 3, 4, 4), plan.numbers(torch.device("cpu"))
    batch = plan.batch(images, labels, index)
    assert batch.images is images and batch.views is plan.view_ids and batch.parts == (1, 1)
    assert batch.labels.tolist() == [1, 0] and batch.index.tolist() == [3, 1]
