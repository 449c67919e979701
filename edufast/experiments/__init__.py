"""Recipes carried out in folders: runs, comparisons, sweeps, reports."""

MAX_SEEDS = 10_000  # a number beyond any experiment would only fill the memory
