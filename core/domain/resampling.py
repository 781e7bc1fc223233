"""Keyword arguments of the resampling functions, as plans give them."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from core.domain.record import Record, describe
from core.errors import PlanError

ANISOTROPY_RATIO = 3
"""An image is anisotropic when its coarsest axis is more than this many times coarser than its finest;
Engine specification A 6.5."""

A = TypeVar("A", bound=Record)

TensorMode = Literal["linear", "nearest-exact", "nearest"]


class SplineArguments(Record):
    """Of the functions that interpolate by splines.

    Source:
        Engine specification A 1.7.
    """

    is_seg: bool = False
    order: int = Field(default=3, ge=0, le=5)
    order_z: int = Field(default=0, ge=0, le=5)
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: float = Field(default=ANISOTROPY_RATIO, gt=0)


class SimpleTensorArguments(Record):
    """Of the function made for PyTorch that knows no separate axis; threads and device change no result."""

    is_seg: bool = False
    num_threads: int = 4
    device: Any = None
    memefficient_seg_resampling: bool = False
    mode: TensorMode = "linear"


class TensorArguments(SimpleTensorArguments):
    """Of the function made for PyTorch that keeps an axis apart; `mode` then holds within slices.

    Source:
        Engine specification A 6.8. Where no axis is apart, all are interpolated linearly, whatever the mode.
    """

    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: float = Field(default=ANISOTROPY_RATIO, gt=0)
    aniso_axis_mode: TensorMode = "nearest-exact"


ARGUMENTS: Final[Mapping[str, type[Record]]] = {
    "resample_data_or_seg_to_shape": SplineArguments,
    "resample_data_or_seg_to_spacing": SplineArguments,
    "resample_labels_by_threshold": SplineArguments,
    "resample_torch_fornnunet": TensorArguments,
    "resample_torch_simple": SimpleTensorArguments,
}
"""What each resampling function takes; the one that resamples nothing takes anything."""


def checked(arguments: Mapping[str, Any], kind: type[A]) -> A:
    """Read a plan's keyword arguments.

    Raises:
        PlanError: The function takes no such arguments.
    """
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        raise PlanError(f"plans.json, arguments of a resampling function: {describe(error)}") from error
