"""Curriculum, School, and the parts of the training loop."""
