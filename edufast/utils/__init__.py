"""Shared by all folders: errors, files, signals, progress, event log, FLOPs, registries."""
