"""The .pte file of 8-bit integers: what of it is ExecuTorch's. The rest is in test_one_image.py."""

from __future__ import annotations

import pytest

from edufast.edge.pte_int8 import versions

pytest.importorskip("executorch")


def test_versions_are_those_that_determine_the_file() -> None:
    assert versions().keys() == {"torch", "executorch", "torchao"}
