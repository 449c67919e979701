"""Moved to edufast.ops.reference; here until edufast.losses imports it from there."""

from edufast.ops.reference.kd_loss_divergences import DIVERGENCES
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS, row_weights

__all__ = ["DIVERGENCES", "WEIGHTINGS", "row_weights"]
