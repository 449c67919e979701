"""Reading JSON that may be damaged."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """As ``json.loads``, for text from a file.

    Raises:
        json.JSONDecodeError: it is not JSON, or nests too deeply, which Python tells by an error
            of another kind.
        ValueError: text that is not UTF-8, or a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nests too deeply", "", 0) from error
