"""The operators in plain PyTorch: the specification that every backend agrees with."""
