"""A loop with Accelerate: several teachers, gradient accumulation.

The loss of a step is a sum over its batches, divided by the number of their samples: the last
batches may be smaller, and a mean of means would weigh their samples more. Needs accelerate and
scikit-learn.
"""

from contextlib import nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edufast.ops import kd_loss

HALVES = [range(0, 5), range(5, 10)]
ACCUMULATED = 4  # batches a step


def fit(model: nn.Module, loss_of, pixels, labels, epochs: int) -> None:
    """``loss_of(logits, pixels, labels)`` is a sum over the samples of a batch."""
    accelerator = Accelerator()
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=16, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for _ in range(epochs):
        batches = iter(loader)
        while step := list(islice(batches, ACCUMULATED)):
            count = torch.tensor(sum(len(y) for _, y in step), device=accelerator.device)
            # Processes take the mean of their gradients, where the sum is wanted.
            scale = accelerator.num_processes / accelerator.gather(count).sum()
            for number, (x, y) in enumerate(step, start=1):
                last = number == len(step)  # after which they exchange them
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    accelerator.backward(loss_of(wrapped(x), x, y) * scale)
            optimizer.step()
            optimizer.zero_grad()


def network(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def from_labels(logits, pixels, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def from_teachers(logits, pixels, labels):
    with torch.no_grad():
        teacher_logits = [teacher(pixels) for teacher in teachers]
    return kd_loss(
        logits, teacher_logits, labels, slices=HALVES, weighting="routed", temperature=2, alpha=0.5,
        reduction="sum",
    )  # fmt: skip


torch.manual_seed(0)
digits = load_digits()
pixels, labels = torch.tensor(digits.images / 8 - 1).float(), torch.tensor(digits.target)
train, val = slice(1200), slice(1200, None)
teachers = []
for half in HALVES:
    mine, teacher = labels[train] // 5 == half[0] // 5, network(128, 5)
    fit(teacher, from_labels, pixels[train][mine], labels[train][mine] - half[0], epochs=10)
    teachers.append(teacher)
student = network(32, 10)
fit(student, from_teachers, pixels[train], labels[train], epochs=10)
device = next(student.parameters()).device
accuracy = (student(pixels[val].to(device)).argmax(1).cpu() == labels[val]).float().mean()
print(f"student of two experts: accuracy {accuracy:.1%}")
