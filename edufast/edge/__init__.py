"""Files for edge devices, and their verification."""

MAX_DROP = 0.5  # points of accuracy that a file of another arithmetic may lose
