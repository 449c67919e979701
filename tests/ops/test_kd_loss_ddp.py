"""Two processes with half of the batch each learn what one process with all of it learns."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edufast.ops import kd_loss

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


def worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    student = DistributedDataParallel(model())
    loss_of(student, slice(rank, None, 2)).backward()
    torch.save(student.module.weight.grad, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ddp_averages_to_the_gradient_of_the_whole_batch(tmp_path):
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    whole = model()
    loss_of(whole, slice(None)).backward()
    for rank in range(2):
        grad = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(grad, whole.weight.grad)
