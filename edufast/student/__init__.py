"""The student: grows by fragments and classes, with its optimiser, and has early exits."""
