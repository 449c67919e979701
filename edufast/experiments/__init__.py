"""Recipes carried out in folders: runs, comparisons, sweeps, reports."""
