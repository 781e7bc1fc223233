"""What an image must be like for a model to segment it, and which stages a cascade needs for that."""

import numpy as np

from core.errors import ImageError, ModelError
from core.inference.ensemble import TrainedModel, members_of
from core.inference.model import LoadedModel
from core.io.image import Image, LabelArray


def require_channels(model: TrainedModel, image: Image) -> None:
    """Refuse an image that does not have one channel for each of the model's.

    Raises:
        ImageError: It has more or fewer; the sentence names those of the model, in order.
    """
    wanted, found = model.description.channels, len(image.voxels_czyx)
    if found != len(wanted):
        raise ImageError(
            f"the image has {found} channel{'s' * (found != 1)}, the model needs {len(wanted)}: "
            f"{', '.join(wanted)}; send one image per channel, in this order",
            channels=list(wanted),
            found=found,
        )


def require_whole(model: TrainedModel) -> None:
    """Refuse a later stage of a cascade whose stages before are not at hand, before an image is read.

    Raises:
        ModelError: One is missing.
    """
    for member in members_of(model):
        if member.configuration.previous_stage is not None:
            require_whole(previous_model(member))


def previous_model(model: LoadedModel) -> LoadedModel:
    """Return the model of the stage before.

    Raises:
        ModelError: There is none.
    """
    if model.previous is None:
        raise lacking(model)
    return model.previous


def require_previous(model: TrainedModel, image: Image, previous_zyx: LabelArray) -> None:
    """Refuse a segmentation that no previous stage can have made of the image.

    Raises:
        ModelError: The model is no later stage of a cascade.
        ImageError: It lies on another grid, or holds values that are no labels.
    """
    before = model.configuration.previous_stage if isinstance(model, LoadedModel) else None
    if before is None:
        raise ModelError(
            f"configuration {model.configuration_name} is no later stage of a cascade; predict without a "
            "previous segmentation"
        )
    if previous_zyx.shape != image.shape:
        raise ImageError(
            f"the image has {image.shape} voxels (z, y, x), but what {before} segmented has "
            f"{previous_zyx.shape}; give its segmentation of this image"
        )
    unknown = sorted(set(np.unique(previous_zyx).tolist()) - set(model.labels.labels))
    if unknown:
        raise ImageError(
            f"what {before} segmented holds {', '.join(map(str, unknown))}, which is no label of the model; give "
            f"the segmentation of a model with the labels {', '.join(map(str, model.labels.labels))}"
        )


def lacking(model: LoadedModel) -> ModelError:
    """Return the error that says what a later stage of a cascade needs."""
    before = model.configuration.previous_stage
    return ModelError(
        f"configuration {model.configuration_name} refines what {before} segments; give that segmentation, or the "
        f"model of {before}",
        configuration=model.configuration_name,
    )
