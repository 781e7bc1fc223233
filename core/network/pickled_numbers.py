"""Numbers and arrays of numpy in a pickle, made from what it says, without the calls that it asks for."""

import re
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.network.pickled import Call, Name

NUMPY_NAMES: Final = frozenset(
    {
        "numpy.dtype",
        "numpy.ndarray",
        *(
            f"numpy.{room}.multiarray.{name}"
            for room in ("_core", "core")
            for name in ("scalar", "_reconstruct")
        ),
    }
)
"""What such pickles name."""

NUMBERS: Final = re.compile(r"[biuf][1248]")
"""Types of such numbers."""


def array_of(call: Call) -> npt.NDArray[Any]:
    """Make the number or array that a call describes.

    Raises:
        ValueError: It describes something else, or its bytes are not as many as its shape needs.
    """
    if call.name.endswith("scalar"):
        described, content = call.arguments
        shape: tuple[int, ...] = ()
        is_columnwise = False
    else:
        _, shape, described, is_columnwise, content = call.state
    dtype = _dtype(described)
    if not isinstance(content, bytes) or len(content) != prod(shape) * dtype.itemsize:
        raise ValueError("as many bytes as its shape says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_columnwise else "C")


def _dtype(call: Any) -> np.dtype[Any]:
    """Return the type of numbers that a call describes.

    Raises:
        ValueError: It is no type of plain numbers.
    """
    if not isinstance(call, Call) or call.name != "numpy.dtype" or isinstance(call.arguments[0], Name):
        raise ValueError("no type of numbers")
    code = call.arguments[0]
    if not NUMBERS.fullmatch(code):
        raise ValueError("no type of numbers")
    order = call.state[1] if call.state else "|"
    return np.dtype(f"{order if order in '<>' else '='}{code}")
