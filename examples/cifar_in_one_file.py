"""Education distillation of CIFAR-100 in one file: PyTorch, edufast.ops and edufast.Student.

    python examples/cifar_in_one_file.py FOLDER [EPOCHS]

FOLDER holds train.bin and test.bin, the binary version of CIFAR-100. There are three grades. In
each a teacher learns a third of the classes; then the student grows by a fragment and by these
classes, and each image is taught by the teacher that knows its class. EPOCHS (default: 10) is the
length of each of these six trainings.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edufast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRADES, BATCH, RATE = 3, 128, 0.1


def load(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 40, 40, 3) uint8 with a margin of 4 pixels, and labels (N,), on the device."""
    records = torch.from_numpy(np.fromfile(path, np.uint8).reshape(-1, 2 + 3 * 32 * 32)).to(DEVICE)
    images = F.pad(records[:, 2:].view(-1, 3, 32, 32), (4, 4, 4, 4))
    return images.permute(0, 2, 3, 1).contiguous(), records[:, 1].long()


def view(images: Tensor, rows: Tensor, random: bool) -> Tensor:
    """Images (B, 3, 32, 32) float; random: shifted by up to 4 pixels, and half of them mirrored."""
    down, right = torch.randint(9, (2, len(rows), 1), device=DEVICE) if random else (4, 4)
    mirrored = torch.rand(len(rows), 1, device=DEVICE) < (0.5 if random else 0.0)
    pixel = torch.arange(32, device=DEVICE).expand(len(rows), 32)
    y, x = pixel + down, torch.where(mirrored, 31 - pixel, pixel) + right
    crops = images[rows[:, None, None], y[:, :, None], x[:, None, :]]
    return crops.permute(0, 3, 1, 2).sub(128.0).div_(64)


def conv(channels: int, out: int) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


def network(width: int, classes: int) -> nn.Sequential:
    w, v, u = width, 2 * width, 4 * width
    first, second, third = [[conv(c, d), conv(d, d)] for c, d in ((3, w), (w, v), (v, u))]
    body = *first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *third, nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(u, classes)).to(DEVICE)


def train(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int,
    teachers: Sequence[nn.Module] = (), slices: Sequence[range] = (),
) -> None:  # fmt: skip
    """Teach what exists of ``model``: a fragment that is still to come gets no gradient."""
    steps = epochs * -(-len(labels) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), device=DEVICE).split(BATCH):
            x, y = view(images, rows, random=True), labels[rows]
            with torch.no_grad():
                answers = [teacher(x) for teacher in teachers]
            if answers:
                loss = edufast.ops.kd_loss(model(x), answers, y, slices=slices, weighting="routed")
            else:
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    batches = torch.arange(len(labels), device=DEVICE).split(1000)
    answers = [model(view(images, rows, random=False)).argmax(1) for rows in batches]
    return (torch.cat(answers) == labels).float().mean().item()


folder, epochs = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
images, labels = load(folder / "train.bin")
started, classes = time.perf_counter(), int(labels.max()) + 1
slices = [range(classes * g // GRADES, classes * (g + 1) // GRADES) for g in range(GRADES)]
student, teachers = edufast.Student(network(16, classes), grades=GRADES), []
for grade, new in enumerate(slices, 1):
    own, taught = (labels >= new.start) & (labels < new.stop), labels < new.stop
    teacher = network(32, len(new))
    train(teacher, images[own], labels[own] - new.start, epochs)
    teachers.append(teacher.eval())
    student.grow(fragments=grade, classes=new.stop)
    train(student.to(DEVICE), images[taught], labels[taught], epochs, teachers, slices[:grade])
    print(f"grade {grade}: {new.stop} classes after {time.perf_counter() - started:.0f} s")
print(f"accuracy {accuracy(student.graduate(), *load(folder / 'test.bin')):.1%}")
