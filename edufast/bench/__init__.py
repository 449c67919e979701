"""Benchmarks: each measured in one run with its alternatives and a lower bound, the floor."""
