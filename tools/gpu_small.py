"""Each operator once on small problems, for compute-sanitizer and ncu: ROWSxCLASSESxTEACHERS ..."""

import sys

import torch

from edufast.ops import augment, dist_loss, kd_loss, merge_, min_norm_weights
from edufast.ops.backends import available_backends

dry = "--dry" in sys.argv
device = "cpu" if dry else "cuda"
for problem in sys.argv[1 + dry :]:
    rows, classes, teachers = (min(int(n), 8) if dry else int(n) for n in problem.split("x"))
    z, *t = (torch.randn(rows, classes, device=device).bfloat16() for _ in range(teachers + 1))
    labels = torch.randint(classes, (rows,), device=device)
    z.requires_grad_()
    for backend in available_backends(device):
        for weighting in ("mean", "confidence"):
            kd_loss(z, t, labels, weighting=weighting, backend=backend).backward()
        dist_loss(z, t[0], backend=backend).backward()
        min_norm_weights(z, t, backend=backend)
    with torch.no_grad():
        merge_([z, labels], [[t[0].float(), labels], [t[-1], labels]])
    images = torch.randint(256, (rows, 19, 32, 3), dtype=torch.uint8, device=device)
    index, view = torch.arange(rows, device=device), torch.arange(rows, device=device) % 162
    augment(images, index, view, pad=4, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    print(problem, z.grad.float().abs().mean().item(), flush=True)
