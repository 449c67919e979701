"""What .pte and .tflite files share."""

from __future__ import annotations

import pytest

from edufast.edge.one_image import example, exporting, undamaged
from edufast.edge.parity import ExportError
from edufast.edge.seal import sealed
from tests.edge.students import DATA, original


def test_a_program_is_called_with_a_copy_of_one_image() -> None:
    (image,) = example(original())
    assert image.shape == (1, 16, 16, 3) and (image[0].numpy() == DATA.val.images[0]).all()
    image.zero_()
    assert DATA.val.images[0].any()


def test_what_fails_is_one_line_with_its_cause() -> None:
    with (
        pytest.raises(ExportError, match=r"^The runtime cannot take this model: KeyError: 'x'$"),
        exporting("The runtime"),
    ):
        try:
            raise KeyError("x")
        except KeyError as error:
            raise RuntimeError("pages\nof advice") from error


def test_a_file_is_read_if_it_is_whole(tmp_path) -> None:
    path = tmp_path / "student.x"
    path.write_bytes(sealed(b"program"))
    assert undamaged(path) == sealed(b"program")
    path.write_bytes(sealed(b"program")[:-1])
    with pytest.raises(ExportError, match=r"student.x is damaged, or edufast did not write it"):
        undamaged(path)
