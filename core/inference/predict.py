"""From an image to its segmentation: check, preprocess, slide the networks, return to the image's grid."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from core.domain.model import PredictionOptions
from core.domain.plan import Architecture
from core.domain.progress import Observer, Progress
from core.domain.training import Fold
from core.errors import CancelledError, ImageError, ModelError
from core.inference.ensemble import Accumulator, fold_mean_logits, tile_count
from core.inference.export import segmentation_from_logits
from core.inference.model import LoadedModel, tile_network
from core.inference.sliding_window import Window, mirror_passes
from core.io.case_store import PreprocessedCase
from core.io.image import FloatArray, Image, LabelArray, LabelMap
from core.network.device import Precision
from core.preprocessing.pipeline import preprocess_case

STAGE = "predict"
PREVIOUS_STAGE = "previous"
"""What an observer is told of: tiles of the model, and of the earlier stages of a cascade."""

CPU_BATCH_VOXELS = 1 << 15
"""Voxels of one forward pass on a CPU, unless a single tile has more already.

Source:
    Own measurement, one thread, per tile: 2D 56 x 40 in bf16 4.9 ms alone, 1.5 ms in batches of 16; 3D
    40 x 56 x 40 63 ms alone, 91 ms in batches of 8.
"""

GPU_BATCH_VOXELS = 1 << 24
"""Voxels of one forward pass on a GPU at most: eight tiles of 128 x 128 x 128, more brings nothing."""

GPU_BYTES_PER_VOXEL = 12
"""Memory of a forward pass per voxel and feature of the first stage: six feature maps of two bytes."""

ASSUMED_FEATURES = 32
"""Of the first stage, where only a package knows."""

GPU_SHARE = 0.5
"""Share of the free GPU memory that one forward pass may take, and likewise image and sums together."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A segmentation, and how it came about."""

    segmentation: LabelMap
    """On the grid of the image, in its geometry."""
    seconds: dict[str, float]
    """Per stage: preprocess, network, export."""
    precision: Precision
    folds: tuple[Fold, ...]


def predict_image(
    model: LoadedModel,
    image: Image,
    options: PredictionOptions,
    observer: Observer,
    *,
    previous_zyx: LabelArray | None = None,
    stage: str = STAGE,
) -> Prediction:
    """Segment one image; in a cascade one stage after the other.

    Args:
        model: From `load_model`.
        image: All channels, in the model's channel order.
        options: Which folds, tiles and mirroring; its precision and device were chosen with the model. Of stages
            before, every fold is taken.
        observer: Told after each tile, and asked before each whether to stop.
        previous_zyx: In a cascade, what the previous stage segmented, on the image's grid; the model's own
            previous stage segments it if not given.
        stage: What the observer is told of.

    Raises:
        ImageError: The image has other channels than the model was trained on, or `previous_zyx` does not fit it.
        ModelError: A fold is not loaded, a logit is not finite, or the stage before is missing or superfluous.
        CancelledError: The observer asked to stop.
    """
    require_channels(model, image)
    seconds, started = {}, perf_counter()
    if previous_zyx is not None:
        _require_previous(model, image, previous_zyx)
    elif model.configuration.previous_stage is not None:
        earlier = options.model_copy(update={"folds": None})
        before = predict_image(_previous_model(model), image, earlier, observer, stage=PREVIOUS_STAGE)
        previous_zyx = before.segmentation.labels_zyx
        seconds["previous"] = perf_counter() - started
    begun = perf_counter()
    case = preprocess_case(
        image, None, model.plan, model.configuration, model.labels, previous_zyx=previous_zyx
    )
    preprocessed = perf_counter()
    logits_kzyx = predict_logits(model, case, options, observer, stage=stage)
    computed = perf_counter()
    segmentation = segmentation_of(model, case, logits_kzyx)
    seconds |= {"preprocess": preprocessed - begun, "network": computed - preprocessed}
    return Prediction(
        segmentation=segmentation,
        seconds={**seconds, "export": perf_counter() - computed},
        precision=model.precision,
        folds=_chosen_folds(model, options),
    )


def require_channels(model: LoadedModel, image: Image) -> None:
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


def predict_logits(
    model: LoadedModel,
    case: PreprocessedCase,
    options: PredictionOptions,
    observer: Observer,
    *,
    stage: str = STAGE,
) -> Tensor:
    """Average the logits of the folds over a preprocessed case, as `predict_image` and validation do.

    Returns:
        logits_kzyx on the grid of the case, on whichever device they fit.

    Raises:
        DomainError: As `predict_image`, channels aside.
    """
    folds = _chosen_folds(model, options)
    voxels = torch.from_numpy(_network_input(model, case))
    window = _window(model, options)
    heads = len(model.labels.heads)
    home = _home(voxels, heads, model.device)
    labels = () if model.configuration.previous_stage is None else model.labels.foreground
    networks = [tile_network(model.networks[fold], model.precision, model.device, labels) for fold in folds]
    on_tiles = _reporting(observer, tile_count(voxels, window, folds=len(folds)), stage)
    return fold_mean_logits(networks, voxels.to(home), window, Accumulator(heads, home), on_tiles)


def segmentation_of(model: LoadedModel, case: PreprocessedCase, logits_kzyx: Tensor) -> LabelMap:
    """Bring logits back to the grid of the image, as labels."""
    labels_zyx = segmentation_from_logits(
        logits_kzyx, case.properties, model.plan, model.configuration, model.labels
    )
    return LabelMap(labels_zyx, case.properties.geometry)


def _network_input(model: LoadedModel, case: PreprocessedCase) -> FloatArray:
    """Return the voxels of a case, in a cascade with what the previous stage segmented as the last channel.

    Raises:
        ModelError: It segmented nothing.
    """
    if model.configuration.previous_stage is None:
        return np.require(case.voxels_czyx, dtype=np.float32, requirements=["C", "W"])
    if case.previous_zyx is None:
        raise _lacking(model)
    return np.concatenate([case.voxels_czyx, case.previous_zyx[np.newaxis]], dtype=np.float32)


def _previous_model(model: LoadedModel) -> LoadedModel:
    """Return the model of the stage before.

    Raises:
        ModelError: There is none.
    """
    if model.previous is None:
        raise _lacking(model)
    return model.previous


def require_whole(model: LoadedModel) -> None:
    """Refuse a later stage of a cascade whose stages before are not at hand, before an image is read.

    Raises:
        ModelError: One is missing.
    """
    if model.configuration.previous_stage is not None:
        require_whole(_previous_model(model))


def _lacking(model: LoadedModel) -> ModelError:
    """Return the error that says what a later stage of a cascade needs."""
    before = model.configuration.previous_stage
    return ModelError(
        f"configuration {model.configuration_name} refines what {before} segments; give that segmentation, or the "
        f"model of {before}",
        configuration=model.configuration_name,
    )


def _require_previous(model: LoadedModel, image: Image, previous_zyx: LabelArray) -> None:
    """Refuse a segmentation that no previous stage can have made of the image.

    Raises:
        ModelError: The model is no later stage of a cascade.
        ImageError: It lies on another grid, or holds values that are no labels.
    """
    before = model.configuration.previous_stage
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


def _chosen_folds(model: LoadedModel, options: PredictionOptions) -> tuple[Fold, ...]:
    """Return the folds to average.

    Raises:
        ModelError: One is not in memory.
    """
    folds = options.folds or model.folds
    missing = [str(fold) for fold in folds if fold not in model.networks]
    if missing:
        known = ", ".join(map(str, model.folds))
        raise ModelError(f"fold {', '.join(missing)} is not loaded; choose among {known}")
    return folds


def _reporting(observer: Observer, total: int, stage: str) -> Callable[[int], None]:
    """Return what the sliding window calls between tiles."""

    def on_tiles(done: int) -> None:
        observer.report(Progress(stage=stage, done=done, total=total))
        if done < total and observer.stop_requested():
            raise CancelledError(f"prediction stopped after {done} of {total} tiles")

    return on_tiles


def _window(model: LoadedModel, options: PredictionOptions) -> Window:
    """Lay out tiles and mirrorings, as many per forward pass as the device digests best.

    Mirrorings share a pass on a GPU only, which even one tile in all its mirrorings hardly fills.
    """
    patch = model.configuration.patch_size
    axes = model.mirror_axes if options.mirroring else ()
    budget = _batch_voxels(model.device, _features(model.configuration.architecture))
    fits = max(1, budget // prod(patch))
    passes = min(fits, len(mirror_passes(axes)))
    if model.device.type == "cpu":
        passes = 1
    return Window(
        patch=patch,
        step=options.step_size,
        mirror_axes=axes,
        has_gaussian=options.gaussian,
        tiles_per_batch=fits // passes,
        passes_per_batch=passes,
    )


def _features(architecture: Architecture) -> int:
    """Return the feature maps of the finest stage; of a package's network a guess."""
    return architecture.unet.features_per_stage[0] if architecture.is_unet else ASSUMED_FEATURES


def _batch_voxels(device: torch.device, features: int) -> int:
    """Return how many voxels one forward pass should have at most."""
    if device.type == "cpu":
        return CPU_BATCH_VOXELS
    free, _ = torch.cuda.mem_get_info(device)
    return min(GPU_BATCH_VOXELS, int(free * GPU_SHARE) // (GPU_BYTES_PER_VOXEL * features))


def _home(voxels_czyx: Tensor, heads: int, device: torch.device) -> torch.device:
    """Return where image and sums live: on the network's device if they fit there, from their sizes."""
    if device.type == "cpu":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    arrays = len(voxels_czyx) + heads + 1
    needed = arrays * prod(voxels_czyx.shape[1:]) * voxels_czyx.element_size()
    return device if needed <= free * GPU_SHARE else torch.device("cpu")
