"""Artefacts for edge devices, and their verification."""
