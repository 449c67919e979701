"""EduFast's loss in a training loop of your own: one import, nothing else of the package.

Two teachers, each an expert for half of the classes, teach a small network. The loop is plain
PyTorch; without the fused loss it would take about fifteen operations a step, on temporaries of the
size of the logits.
"""

import torch
from torch import nn

import edufast

torch.manual_seed(0)
CLASSES, FEATURES = 100, 64
centres = torch.randn(CLASSES, FEATURES)


def batch(size: int, classes: range) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(classes.start, classes.stop, (size,))
    return centres[labels] + 1.5 * torch.randn(size, FEATURES), labels


def expert(classes: range) -> nn.Module:
    model = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, len(classes)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(300):
        x, y = batch(256, classes)
        nn.functional.cross_entropy(model(x), y - classes.start).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


halves = [range(0, 50), range(50, 100)]
teachers = [expert(half) for half in halves]
student = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))
optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
for step in range(1001):
    x, y = batch(256, range(CLASSES))
    loss = edufast.ops.kd_loss(
        student(x),
        [teacher(x) for teacher in teachers],
        y,
        slices=halves,
        weighting="routed",  # each sample learns from the expert that knows its class
        temperature=2.0,
        alpha=0.5,
    )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 250 == 0:
        x, y = batch(2000, range(CLASSES))
        accuracy = (student(x).argmax(1) == y).float().mean()
        print(f"step {step:4}: loss {loss:.3f}, accuracy {accuracy:.1%}")
