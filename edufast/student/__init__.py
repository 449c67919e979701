"""The student, its growth together with its optimiser, and its early exits."""
