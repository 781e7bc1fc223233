"""What one stage of a cascade hands to the next, in training and in prediction, and how a network sees it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.domain.geometry import Shape, permuted
from core.domain.labels import LabelSet
from core.domain.plan import Configuration, Plan
from core.errors import ModelError
from core.inference.export import decided_labels
from core.io.case_store import CaseProperties
from core.io.image import LabelArray
from core.preprocessing.resample import RESAMPLINGS, Grid
from core.preprocessing.target import target_grid


def with_labels_apart(tiles: Tensor, labels: Sequence[int]) -> Tensor:
    """Replace the last channel of tiles, a label map, by one channel of zeros and ones per label.

    Source:
        Engine specification A 8.6.
    """
    previous = tiles[:, -1]
    return torch.cat(
        [tiles[:, :-1], *((previous == label).unsqueeze(1).to(tiles) for label in labels)], dim=1
    )


def next_stage_shape(properties: CaseProperties, plan: Plan, following: Configuration) -> Shape:
    """Return the voxels that a case has once it is preprocessed for another configuration.

    What is cropped depends on the image alone, so the case need not have been preprocessed for it.

    Args:
        properties: What preprocessing for any configuration left of the image.
        plan: Axis order.
        following: The other configuration.

    Raises:
        ImageError: Nothing would be left of the image, or more than there is memory for.
    """
    spacing = permuted(properties.spacing, plan.transpose_forward)
    source = Grid(properties.shape_after_cropping_and_before_resampling, spacing)
    whole = Grid(properties.shape_before_cropping, spacing)
    target = target_grid(whole, source, following, len(following.normalization_schemes))
    by_name = RESAMPLINGS.get(following.resampling_fn_data)
    return by_name(source, target, following.resampling_fn_data_kwargs).target


def next_stage_labels(
    logits_kzyx: Tensor,
    spacing: Sequence[float],
    shape: Shape,
    configuration: Configuration,
    labels: LabelSet,
) -> LabelArray:
    """Bring logits to the grid of the next stage and decide on a label for each voxel.

    Args:
        logits_kzyx: On the grid of the stage that made them.
        spacing: Of the image, transposed; a 2D stage keeps its first entry.
        shape: Of the next stage's grid.
        configuration: Of the stage that made the logits. Its spacing stands for that of both grids, so that it
            alone decides which axis is kept apart.
        labels: What the heads stand for.

    Returns:
        uint8, or uint16 from 255 foreground labels on.

    Raises:
        ModelError: The plan's resampling cannot reach that grid.

    Source:
        Engine specification B 1.13 (4).
    """
    _, z, y, x = logits_kzyx.shape
    first, second, third = spacing
    own = configuration.target_spacing((first, second, third))
    name = configuration.resampling_fn_probabilities
    arguments = configuration.resampling_fn_probabilities_kwargs
    change = RESAMPLINGS.get(name)(Grid((z, y, x), own), Grid(shape, own), arguments)
    if change.target != shape:
        raise ModelError(
            f"{name} leaves logits of {(z, y, x)} voxels as they are but the next stage has {shape}; name another "
            "function as resampling_fn_probabilities in plans.json"
        )
    return decided_labels(logits_kzyx, change, labels)
