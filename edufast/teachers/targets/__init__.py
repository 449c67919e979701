"""Targets: how slice teachers are merged into one soft target over all classes taught."""

from edufast.teachers.targets.registry import TARGETS, find_target, register_target
from edufast.teachers.targets.slice_logits import SliceLogits

__all__ = ["TARGETS", "SliceLogits", "find_target", "register_target"]
