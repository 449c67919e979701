"""Recipes carried out in folders: runs, comparisons, sweeps, reports."""

from edufast.utils.extras import require

require("edufast.experiments", "cli", "pydantic", "rich", "safetensors", "yaml")

RUN_FILE, SWEEP_FILE = "config.yaml", "sweep.yaml"  # a folder has one of them
MAX_SEEDS = 10_000  # a number beyond any experiment would only fill the memory
