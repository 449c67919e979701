"""Fused operators, usable on their own in any training loop."""

from edufast.ops.augment import augment
from edufast.ops.backends import BACKENDS, select_backend
from edufast.ops.dist_loss import dist_loss
from edufast.ops.kd_loss import kd_loss, kd_loss_and_grad
from edufast.ops.merge import MergePlan, merge_
from edufast.ops.min_norm import min_norm_weights
from edufast.ops.slices import ClassSlices

__all__ = [
    "BACKENDS",
    "ClassSlices",
    "MergePlan",
    "augment",
    "dist_loss",
    "kd_loss",
    "kd_loss_and_grad",
    "merge_",
    "min_norm_weights",
    "select_backend",
]
