"""Reading pickles of bytes, numbers, lists, dictionaries and NumPy arrays only.

Some data sets are published as pickles, and unpickling can call any function that the file names.
This reader calls none: the three names that a pickled array needs are replaced by classes that only
record their arguments, and every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Recorded:
    """Records the arguments and the state of an object instead of creating it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PickledArray(_Recorded):
    """An array as described by a pickle."""

    def to_uint8(self) -> NDArray[np.uint8]:
        """The array.

        Raises:
            ValueError: it is not an array of bytes in C order.
        """
        try:
            _, shape, dtype, fortran, content = self.state
            if dtype.arguments[0] not in ("u1", b"u1") or fortran:
                raise ValueError("expected an array of bytes in C order")
            return np.frombuffer(content, dtype=np.uint8).reshape(shape)
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError("expected an array") from error


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,  # as NumPy 2 writes it
    ("numpy", "ndarray"): _Recorded,
    ("numpy", "dtype"): _Recorded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ValueError(f"it names {module}.{name}, but only arrays are allowed")
        return _STAND_INS[module, name]


def unpickle(content: bytes) -> Any:
    """The content of a pickle: Python 2 strings as bytes, arrays as :class:`PickledArray`.

    Raises:
        ValueError: it names anything but arrays, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except ValueError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
