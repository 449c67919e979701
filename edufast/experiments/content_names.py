"""Names of a sweep's files that end in a hash of all that determines their content.

What has such a name is the same wherever the sweep's folder is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_NAMED = re.compile(r"([a-z0-9]+-)?[0-9a-f]{12}(\.safetensors)?")


def text_hash(determined_by: str) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(determined_by.encode()).hexdigest()[:12]


def without_folder(path: Path) -> Path:
    """Its name, where that tells the content; else the path."""
    return Path(path.name) if _NAMED.fullmatch(path.name) else path
