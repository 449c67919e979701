"""Two processes with half of the batch each learn what one process with all of it learns."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edufast.ops import kd_loss
from tests.pair import RANKS, on_ranks

ROWS, FEATURES, CLASSES = 16, 6, 10


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(ROWS, FEATURES, generator=generator)
    teachers = [torch.randn(ROWS, 5, generator=generator) for _ in range(2)]
    return images, teachers, torch.arange(ROWS) % CLASSES


def model():
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


def loss_of(student, rows):
    images, teachers, labels = batch()
    return kd_loss(
        student(images[rows]),
        [t[rows] for t in teachers],
        labels[rows],
        slices=[(0, 5), (5, 10)],
        weighting="routed",
    )


def gradient_of_a_share():
    student = DistributedDataParallel(model())
    loss_of(student, slice(dist.get_rank(), None, RANKS)).backward()
    return student.module.weight.grad.tolist()


def test_ddp_averages_to_the_gradient_of_the_whole_batch():
    whole = model()
    loss_of(whole, slice(None)).backward()
    for grad in on_ranks(gradient_of_a_share):
        torch.testing.assert_close(torch.tensor(grad), whole.weight.grad)
