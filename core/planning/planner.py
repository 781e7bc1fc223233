"""The rules in the order in which they depend on each other, from a fingerprint to a plan."""

from dataclasses import dataclass
from math import prod
from typing import Annotated

from pydantic import Field

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import MOST_VOXELS, Axes, Spacing, inverse, permuted
from core.domain.names import plans_name_mistake
from core.domain.plan import Configuration, Plan
from core.domain.record import Record
from core.errors import PlanningError
from core.planning.architecture import architecture
from core.planning.memory import batch_size, budget, feature_maps, is_over_budget
from core.planning.normalization import masked_channels, normalization_schemes
from core.planning.plannable import require_plannable
from core.planning.presets import DEFAULT, PRESETS, Preset
from core.planning.revision import revised
from core.planning.spacing import (
    IDENTITY,
    coarsened,
    median_resampled_shape,
    median_shape,
    median_spacing,
    slices_first,
    target_spacing,
    transposed_median,
)
from core.planning.topology import Topology, fitted, initial_patch, topology

LOW_RESOLUTION_SHARE = 0.25
"""A patch below this share of the median image sees too little of it; a low-resolution stage helps."""

LOW_RESOLUTION_GAIN = 2.0
"""How many times fewer voxels the low resolution must have to be worth a configuration."""

FEWEST_VOXELS = 2
"""Along an axis that has more than one, after resampling to a spacing that the user chose."""

Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PlannerSettings(Record):
    """What a user may decide about planning."""

    reader: str = Field(min_length=1)
    """Name of the reader and writer of the dataset's files."""
    dataset_name: str = ""
    """Full name of the dataset's folder."""
    preset: str = "default"
    """A name in `PRESETS`."""
    gpu_memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory target in GB; None for the preset's own."""
    target_spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Overrides the target spacing, in the axis order of the files (z, y, x)."""
    suppress_transpose: bool = False
    """Whether to keep the axis order of the files."""
    plans_name: str | None = Field(default=None, min_length=1)
    """Overrides the preset's name for its plans."""
    preprocessor_name: str = "DefaultPreprocessor"


@dataclass(frozen=True, slots=True)
class Grid:
    """What the cases of one configuration look like to its network."""

    configuration: str
    spacing: tuple[float, ...]
    """Millimetres, in transposed order; two axes for 2d."""
    median_shape: tuple[int, ...] | tuple[float, ...]
    """Median voxel counts, same axes."""
    dataset_voxels: float
    """Voxels of all training cases together, of whole volumes even for 2d."""


@dataclass(frozen=True, slots=True)
class Framework:
    """What all configurations of a plan have in common."""

    preset: Preset
    plans_name: str
    preprocessor_name: str
    gpu_memory_gb: float | None
    classes: int
    """Entries of `labels` in dataset.json."""
    training_cases: int
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]


def plan_experiments(
    fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings
) -> Plan:
    """Configure the pipeline for a dataset.

    Args:
        fingerprint: What was measured on the training cases.
        description: Its dataset.json.
        settings: The user's choices.

    Raises:
        PlanningError: The fingerprint is broken or of another dataset, no patch fits the memory, or the plans
            cannot be named so.
        LabelsError: The labels contradict each other.
        UnknownNameError: There is no such preset.
        ExtensionError: The planner of a package cannot be loaded, or returns no plan.
        PlanError: It returns one that contradicts itself.

    Source:
        Engine specification A 5; doi:10.1038/s41592-020-01008-z.
    """
    mistake = None if settings.plans_name is None else plans_name_mistake(settings.plans_name)
    if mistake is not None:
        raise PlanningError(mistake, plans_name=settings.plans_name)
    require_plannable(fingerprint, description)
    preset = PRESETS.get(settings.preset)
    framework = _framework(fingerprint, description, settings, preset)
    spacings, shapes = fingerprint.spacings, fingerprint.shapes_after_crop
    target = settings.target_spacing or target_spacing(spacings, shapes)
    if settings.target_spacing is not None:
        _require_sensible(target, fingerprint)
    axes = IDENTITY if settings.suppress_transpose else slices_first(target)
    made = Plan(
        dataset_name=settings.dataset_name,
        plans_name=framework.plans_name,
        original_median_spacing_after_transp=permuted(median_spacing(spacings), axes),
        original_median_shape_after_transp=transposed_median(shapes, axes),
        image_reader_writer=settings.reader,
        transpose_forward=axes,
        transpose_backward=inverse(axes),
        configurations=_configurations(full_resolution(fingerprint, target, axes, framework), framework),
        experiment_planner_used=preset.planner,
        label_manager="LabelManager",
        foreground_intensity_properties_per_channel=fingerprint.foreground_intensity_properties_per_channel,
    )
    return made if preset.revise is None else revised(made, preset.revise, fingerprint, description)


def _require_sensible(target: Spacing, fingerprint: Fingerprint) -> None:
    """Refuse a target spacing of the user's that leaves nothing of the images, or more than anybody can store."""
    before = median_shape(fingerprint.shapes_after_crop)
    median = median_spacing(fingerprint.spacings)
    after = [edge / wanted * count for edge, wanted, count in zip(median, target, before, strict=True)]
    lost = any(count > 1 and left < FEWEST_VOXELS for count, left in zip(before, after, strict=True))
    if lost or prod(after) > MOST_VOXELS:
        shape = " x ".join(f"{count:.3g}" for count in after)
        raise PlanningError(
            f"with the target spacing {list(target)} mm (z, y, x) the median image would have {shape} voxels; the "
            f"training cases have {list(median)} mm: choose something near it",
            target_spacing=list(target),
        )


def _framework(
    fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings, preset: Preset
) -> Framework:
    """Collect what does not depend on the grid."""
    schemes = normalization_schemes(description.channels)
    return Framework(
        preset=preset,
        plans_name=settings.plans_name or preset.plans_name,
        preprocessor_name=settings.preprocessor_name,
        gpu_memory_gb=settings.gpu_memory_gb,
        classes=description.label_set().declared,
        training_cases=description.training_cases,
        normalization_schemes=schemes,
        use_mask_for_norm=masked_channels(schemes, fingerprint.median_relative_size_after_cropping),
    )


def full_resolution(fingerprint: Fingerprint, target: Spacing, axes: Axes, framework: Framework) -> Grid:
    """Return the grid of 3d_fullres."""
    shape = median_resampled_shape(fingerprint.spacings, fingerprint.shapes_after_crop, target)
    median = permuted(shape, axes)
    return Grid("3d_fullres", permuted(target, axes), median, prod(median) * framework.training_cases)


def _configurations(full: Grid, framework: Framework) -> dict[str, dict[str, object]]:
    """Plan every configuration that makes sense, in the order of the file.

    Source:
        Engine specification A 5.5 and 5.7 (4).
    """
    slices = Grid("2d", full.spacing[1:], full.median_shape[1:], full.dataset_voxels)
    planned = {"2d": plan_configuration(slices, framework).model_copy(update={"batch_dice": True})}
    if full.median_shape[0] == 1:
        return _written(planned)
    volumes = plan_configuration(full, framework)
    low = low_resolution(full, volumes, framework)
    if low is None:
        return _written({**planned, "3d_fullres": volumes})
    planned["3d_lowres"] = low.model_copy(update={"next_stage": "3d_cascade_fullres"})
    planned["3d_fullres"] = volumes.model_copy(update={"batch_dice": True})
    cascade: dict[str, object] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return {**_written(planned), "3d_cascade_fullres": cascade}


def _written(planned: dict[str, Configuration]) -> dict[str, dict[str, object]]:
    """Return configurations as they stand in the file."""
    return {name: configuration.to_json() for name, configuration in planned.items()}


def plan_configuration(grid: Grid, framework: Framework) -> Configuration:
    """Plan one configuration: the largest patch that fits, its network, and the batch.

    Raises:
        PlanningError: No patch fits the memory.

    Source:
        Engine specification A 5.6.
    """
    preset = framework.preset
    limit = budget(preset, len(grid.spacing), framework.gpu_memory_gb)
    chosen = _fitted_topology(grid, framework, limit)
    network = architecture(chosen, is_residual=preset.is_residual)
    cost = feature_maps(chosen.patch_size, network.unet, framework.classes)
    resampling = preset.resampling
    return Configuration(
        data_identifier=data_identifier(grid.configuration, framework.plans_name, preset),
        preprocessor_name=framework.preprocessor_name,
        batch_size=batch_size(cost, limit, chosen.patch_size, grid.dataset_voxels, preset.coverage),
        patch_size=chosen.patch_size,
        median_image_size_in_voxels=grid.median_shape,
        spacing=grid.spacing,
        normalization_schemes=framework.normalization_schemes,
        use_mask_for_norm=framework.use_mask_for_norm,
        resampling_fn_data=resampling.function,
        resampling_fn_seg=resampling.function,
        resampling_fn_data_kwargs=dict(resampling.data),
        resampling_fn_seg_kwargs=dict(resampling.seg),
        resampling_fn_probabilities=resampling.function,
        resampling_fn_probabilities_kwargs=dict(resampling.probabilities),
        architecture=network,
        batch_dice=False,
    )


def _fitted_topology(grid: Grid, framework: Framework, limit: float) -> Topology:
    """Return the largest topology within the budget."""
    preset = framework.preset

    def is_too_large(candidate: Topology) -> bool:
        network = architecture(candidate, is_residual=preset.is_residual)
        cost = feature_maps(candidate.patch_size, network.unet, framework.classes)
        return is_over_budget(
            cost, limit, len(grid.spacing), patch_outranks_batch=preset.patch_outranks_batch
        )

    start = topology(grid.spacing, initial_patch(grid.spacing, grid.median_shape))
    return fitted(start, grid.spacing, grid.median_shape, is_too_large)


def data_identifier(configuration: str, plans_name: str, preset: Preset) -> str:
    """Name the preprocessed cases of a configuration.

    Source:
        Engine specification A 5.11.
    """
    is_shared = preset.shares_default_cases and configuration != "3d_lowres"
    return f"{DEFAULT.plans_name if is_shared else plans_name}_{configuration}"


def low_resolution(full: Grid, volumes: Configuration, framework: Framework) -> Configuration | None:
    """Plan 3d_lowres where the patch of 3d_fullres shows too little of an image.

    The spacing grows until the patch covers a quarter of the median image.

    Args:
        full: The grid of 3d_fullres.
        volumes: The configuration planned for it.
        framework: What all configurations share.

    Returns:
        The configuration, or None where it would gain too little.

    Source:
        Engine specification A 5.7.
    """
    low, spacing = volumes, permuted(full.spacing, IDENTITY)
    full_voxels = voxels = prod(full.median_shape)
    while prod(low.patch_size) / voxels < LOW_RESOLUTION_SHARE:
        spacing = coarsened(spacing)
        shape = [
            before / after * count
            for before, after, count in zip(full.spacing, spacing, full.median_shape, strict=True)
        ]
        voxels = prod(shape)
        median = tuple(max(1, round(count)) for count in shape)
        low = plan_configuration(
            Grid("3d_lowres", spacing, median, voxels * framework.training_cases), framework
        )
    return None if full_voxels / voxels < LOW_RESOLUTION_GAIN else low
