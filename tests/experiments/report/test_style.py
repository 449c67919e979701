"""Colours."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report.style import DARK, LIGHT, readable


def test_text_on_colours_is_readable() -> None:
    """At least 4:1 for every colour that text lies on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (LIGHT, DARK):
        pairs = [(theme.paper, theme.ink), (theme.paper, theme.faint)]
        pairs += [(colour, readable(colour)) for colour in (*theme.palette, *theme.ramp)]
        for pair in pairs:
            low, high = sorted(map(luminance, pair))
            assert (high + 0.05) / (low + 0.05) >= 4, pair
