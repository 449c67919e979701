"""What has to be settled before a test module is imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)
