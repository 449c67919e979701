"""Settings that are one of a few words.

They live here, and not beside what they choose, so that a recipe is checked without loading that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

Compile: TypeAlias = Literal["auto", True, False]
HeadKind: TypeAlias = Literal["grid", "pool_first", "paper", "linear"]
Mix: TypeAlias = Literal["none", "mixup", "cutmix"]
OnError: TypeAlias = Literal["stop", "skip"]
Optimizer: TypeAlias = Literal["sgd", "adamw"]
Order: TypeAlias = Literal["mixed", "slices"]
Policy: TypeAlias = Literal["none", "randaugment", "trivialaugment"]
Precision: TypeAlias = Literal["fp32", "bf16"]
Schedule: TypeAlias = Literal["held", "restart", "paper"]
Weights: TypeAlias = Literal["pretrained"] | Path
