"""Benchmarks: each measured in one run with its alternatives and a lower bound, the floor."""

from edufast.utils.extras import require

require("edufast.bench", "cli", "rich")
