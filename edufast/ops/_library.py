"""Loading the compiled operators. Nothing compiles at import and nothing falls back silently."""

from __future__ import annotations

import os
from pathlib import Path

import torch

try:
    from edufast import _native
except ImportError as error:
    raise ImportError(
        "EduFast's compiled operators are missing: install the package with `pip install .` "
        "(or `make build` in a checkout)."
    ) from error

# In an editable install the library lies beside `_native`, not beside this file. The variable is
# for builds that are tested without being installed (make sanitize).
LIBRARY = os.environ.get("EDUFAST_LIBRARY") or str(
    Path(_native.__file__).with_name("libedufast.so")
)
torch.ops.load_library(LIBRARY)
