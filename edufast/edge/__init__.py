"""Files for edge devices, and their verification."""
