"""Curriculum, School and what a training step needs."""
