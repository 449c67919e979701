"""Numbers as a reader wants them."""

from __future__ import annotations

from edufast.experiments.report import format as fmt


def test_numbers() -> None:
    assert fmt.si(0, "FLOP") == "0 FLOP"
    assert fmt.si(999.6, "B") == "1 kB"
    assert fmt.si(1.234e12, "FLOP") == "1.23 TFLOP"
    assert [fmt.seconds(s) for s in (3.14159, 59.97, 75, 3599.7, 7260)] == [
        "3.1 s", "1 min 00 s", "1 min 15 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
    assert fmt.spread([0.5]) == "50.0 %"
    assert fmt.spread([0.5, 0.6, 0.7]) == "60.0 ± 10.0 %"
