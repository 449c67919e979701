"""Benchmarks: every number beside its rivals and its floor, measured in one run."""
