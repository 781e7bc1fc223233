"""The official tools' pickled postprocessing, understood as data: nothing that it names is loaded or run."""

import io
from typing import Any, Final

from core.domain.postprocessing import KEEP_LARGEST, Postprocessing
from core.network.pickled import Call, Name, PickleError, read_pickle
from core.network.pickled_numbers import NUMPY_NAMES, array_of

PICKLED_POSTPROCESSING: Final = "postprocessing.pkl"
"""What the official tools read, and the only one of both files that they need."""

KEEPING_LARGEST: Final = f"nnunetv2.postprocessing.remove_connected_components.{KEEP_LARGEST}"
"""The one function that such a file may name; it is compared, never looked up. Engine specification A 1.13."""

LARGEST_BYTES: Final = 1 << 20
"""Of a postprocessing file; a step for each of a hundred labels takes some kilobytes."""


def unpickled_postprocessing(content: bytes) -> Postprocessing:
    """Understand a pickled pair: functions, and the arguments of each.

    Args:
        content: Of a postprocessing.pkl.

    Raises:
        PickleError: It names anything but the one function and numbers of numpy, or holds something else.
        ModelError: The arguments are unknown.

    Source:
        Engine specification B 7.7, B 7.8.
    """
    if len(content) > LARGEST_BYTES:
        raise PickleError("it is larger than any postprocessing")
    try:
        functions, arguments = _plain(read_pickle(io.BytesIO(content), {KEEPING_LARGEST, *NUMPY_NAMES}))
        return Postprocessing.of_functions(functions, arguments)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise PickleError("it holds no pair of functions and arguments") from error


def _plain(value: Any) -> Any:
    """Return names as text without their module, and numbers of numpy as plain ones."""
    if isinstance(value, Name):
        return value.dotted.rpartition(".")[2]
    if isinstance(value, Call):
        return array_of(value).item()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(one) for one in value)
    return value
