"""A hash at the end of exported files, so that a flipped bit is noticed."""

from __future__ import annotations

import hashlib

# A protobuf message may be continued: these bytes are one more entry of ModelProto.metadata_props
# (field 14), a StringStringEntryProto of 74 bytes with the key "sha256" and 64 hexadecimal digits.
# ExecuTorch does not look at what follows a program.
_HEAD = b"\x72\x4a\x0a\x06sha256\x12\x40"
_LENGTH = len(_HEAD) + 64


def sealed(content: bytes) -> bytes:
    """The content of an exported file, followed by its hash."""
    return content + _HEAD + hashlib.sha256(content).hexdigest().encode()


def is_damaged(content: bytes) -> bool:
    """Whether a file does not end with the hash of what comes before: a bit was flipped, something
    was cut off or appended, or another program wrote it."""
    return content != sealed(content[:-_LENGTH])
