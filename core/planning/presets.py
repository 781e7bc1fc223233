"""What distinguishes one planner from another, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.plan import Plan
from core.extensions import Group
from core.registry import Registry

ONE_VOXEL_OF_TWENTY = 0.05
"""Share of a dataset's voxels that a batch may show; keeps batches of small datasets diverse."""

WHOLE_DATASET = 1.0
"""The share for presets that fill the memory instead."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How images, label maps and probabilities are brought to another spacing."""

    function: str
    """Name of the resampling function, the same for all three."""
    data: Mapping[str, Any]
    """Keyword arguments for images."""
    seg: Mapping[str, Any]
    """Keyword arguments for label maps."""
    probabilities: Mapping[str, Any]
    """Keyword arguments for what the network returns."""


Revise = Callable[[Plan, Fingerprint, DatasetDescription], Plan]
"""Makes another plan of the one that the rules made, for what constants cannot say."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The constants of one planner; also what a package adds.

    Source:
        Engine specification A 5.11 and 5.12.
    """

    planner: str
    """Recorded in the plan as `experiment_planner_used`."""
    plans_name: str
    """Name of its plans, unless the user gives another."""
    is_residual: bool
    """Whether the encoder consists of residual blocks."""
    reference_3d: int
    """Feature-map elements that a batch of two 3D patches may cost at `reference_gb`."""
    reference_2d: int
    """The same for a batch of twelve 2D patches."""
    reference_gb: float
    """GPU memory in GB that the two references stand for; also the default target."""
    coverage: float
    """Largest share of the dataset's voxels in one batch."""
    patch_outranks_batch: bool
    """Whether a patch is kept as soon as two samples fit, or only once the reference batch does."""
    shares_default_cases: bool
    """Whether 2d and 3d_fullres reuse the preprocessed cases of the default plans."""
    resampling: Resampling
    revise: Revise | None = None
    """What is done to the plan at the end; none of ours needs it."""


SPLINES = Resampling(
    function="resample_data_or_seg_to_shape",
    data={"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    seg={"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    probabilities={"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
)
"""Cubic for images, linear for labels and probabilities, nearest across thick slices."""

NO_RESAMPLING = Resampling(function="no_resampling_hack", data={}, seg={}, probabilities={})
"""Leave every image on its own grid."""


def _torch_resampling(**separation: float | bool | None) -> Resampling:
    """Return linear resampling by tensor operations, with its rule for thick slices."""
    return Resampling(
        function="resample_torch_fornnunet",
        data={"is_seg": False, **separation},
        seg={"is_seg": True, **separation},
        probabilities={"is_seg": False, **separation},
    )


TORCH = _torch_resampling(force_separate_z=False, memefficient_seg_resampling=False)
"""All axes together."""

TORCH_SEPARATE = _torch_resampling(
    force_separate_z=None, memefficient_seg_resampling=False, separate_z_anisotropy_threshold=3
)
"""A thick-slice axis apart from the others."""

DEFAULT = Preset(
    planner="ExperimentPlanner",
    plans_name="nnUNetPlans",
    is_residual=False,
    reference_3d=560_000_000,
    reference_2d=85_000_000,
    reference_gb=8,
    coverage=ONE_VOXEL_OF_TWENTY,
    patch_outranks_batch=True,
    shares_default_cases=False,
    resampling=SPLINES,
)

RESENC = Preset(
    planner="ResEncUNetPlanner",
    plans_name="nnUNetResEncUNetPlans",
    is_residual=True,
    reference_3d=680_000_000,
    reference_2d=135_000_000,
    reference_gb=8,
    coverage=ONE_VOXEL_OF_TWENTY,
    patch_outranks_batch=False,
    shares_default_cases=True,
    resampling=SPLINES,
)

RESENC_M = replace(
    RESENC, planner="nnUNetPlannerResEncM", plans_name="nnUNetResEncUNetMPlans", coverage=WHOLE_DATASET
)

RESENC_L = replace(
    RESENC_M,
    planner="nnUNetPlannerResEncL",
    plans_name="nnUNetResEncUNetLPlans",
    reference_3d=2_100_000_000,
    reference_2d=380_000_000,
    reference_gb=24,
)

RESENC_XL = replace(
    RESENC_M,
    planner="nnUNetPlannerResEncXL",
    plans_name="nnUNetResEncUNetXLPlans",
    reference_3d=3_600_000_000,
    reference_2d=560_000_000,
    reference_gb=40,
)

PRESETS: Registry[Preset] = Registry("preset", Group.PLANNER, Preset)
"""The planners that can be asked for by name."""

PRESETS.register("default")(DEFAULT)
PRESETS.register("resenc")(RESENC)
PRESETS.register("resenc_m")(RESENC_M)
PRESETS.register("resenc_l")(RESENC_L)
PRESETS.register("resenc_xl")(RESENC_XL)
PRESETS.register("torch_resampling")(
    replace(DEFAULT, planner="nnUNetPlanner_torchres", plans_name="nnUNetPlans_torchres", resampling=TORCH)
)
PRESETS.register("no_resampling")(
    replace(
        RESENC_L,
        planner="nnUNetPlannerResEncL_noResampling",
        plans_name="nnUNetResEncUNetLPlans_noResampling",
        shares_default_cases=False,
        resampling=NO_RESAMPLING,
    )
)
PRESETS.register("resenc_l_torch_resampling")(
    replace(
        RESENC_L,
        planner="nnUNetPlannerResEncL_torchres",
        plans_name="nnUNetResEncUNetLPlans_torchres",
        shares_default_cases=False,
        resampling=TORCH,
    )
)
PRESETS.register("resenc_l_torch_resampling_separate")(
    replace(
        RESENC_L,
        planner="nnUNetPlannerResEncL_torchres_sepz",
        plans_name="nnUNetResEncUNetLPlans_torchres_sepz",
        shares_default_cases=False,
        resampling=TORCH_SEPARATE,
    )
)
