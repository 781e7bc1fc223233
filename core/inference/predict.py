"""From an image to its segmentation: check, preprocess, slide the networks, return to the image's grid."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from core.domain.model import PredictionOptions
from core.domain.progress import Observer, Progress
from core.domain.training import Fold
from core.errors import CancelledError, ImageError, ModelError
from core.inference.ensemble import Accumulator, fold_mean_logits, tile_count
from core.inference.export import segmentation_from_logits
from core.inference.model import LoadedModel, tile_network
from core.inference.sliding_window import Window, mirror_passes
from core.io.case_store import PreprocessedCase
from core.io.image import FloatArray, Image, LabelMap
from core.network.device import Precision
from core.preprocessing.pipeline import preprocess_case

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
    model: LoadedModel, image: Image, options: PredictionOptions, observer: Observer
) -> Prediction:
    """Segment one image.

    Args:
        model: From `load_model`.
        image: All channels, in the model's channel order.
        options: Which folds, tiles and mirroring; its precision and device were chosen with the model.
        observer: Told after each tile, and asked before each whether to stop.

    Raises:
        ImageError: The image has other channels than the model was trained on.
        ModelError: A fold is not loaded, or a logit is not finite.
        CancelledError: The observer asked to stop.
    """
    require_channels(model, image)
    started = perf_counter()
    case = preprocess_case(image, None, model.plan, model.configuration, model.labels)
    preprocessed = perf_counter()
    logits_kzyx = predict_logits(model, case.voxels_czyx, options, observer)
    computed = perf_counter()
    segmentation = _segmentation(model, case, logits_kzyx)
    return Prediction(
        segmentation=segmentation,
        seconds={
            "preprocess": preprocessed - started,
            "network": computed - preprocessed,
            "export": perf_counter() - computed,
        },
        precision=model.precision,
        folds=_chosen_folds(model, options),
    )


def predict_preprocessed(
    model: LoadedModel, case: PreprocessedCase, options: PredictionOptions, observer: Observer
) -> LabelMap:
    """Segment a case that is preprocessed already, as the validation of a fold does.

    Returns:
        The segmentation on the grid of the original image.

    Raises:
        DomainError: As `predict_image`, channels aside.
    """
    return _segmentation(model, case, predict_logits(model, case.voxels_czyx, options, observer))


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
    model: LoadedModel, voxels_czyx: FloatArray, options: PredictionOptions, observer: Observer
) -> Tensor:
    """Average the logits of the folds over a preprocessed image.

    Returns:
        logits_kzyx on the grid of the preprocessed image, on whichever device they fit.

    Raises:
        DomainError: As `predict_image`, channels aside.
    """
    folds = _chosen_folds(model, options)
    voxels = torch.from_numpy(np.require(voxels_czyx, dtype=np.float32, requirements=["C", "W"]))
    window = _window(model, options)
    heads = len(model.labels.heads)
    home = _home(voxels, heads, model.device)
    networks = [tile_network(model.networks[fold], model.precision, model.device) for fold in folds]
    on_tiles = _reporting(observer, tile_count(voxels, window, folds=len(folds)))
    return fold_mean_logits(networks, voxels.to(home), window, Accumulator(heads, home), on_tiles)


def _segmentation(model: LoadedModel, case: PreprocessedCase, logits_kzyx: Tensor) -> LabelMap:
    """Bring logits back to the grid of the image, as labels."""
    labels_zyx = segmentation_from_logits(
        logits_kzyx, case.properties, model.plan, model.configuration, model.labels
    )
    return LabelMap(labels_zyx, case.properties.geometry)


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


def _reporting(observer: Observer, total: int) -> Callable[[int], None]:
    """Return what the sliding window calls between tiles."""

    def on_tiles(done: int) -> None:
        observer.report(Progress(stage="predict", done=done, total=total))
        if done < total and observer.stop_requested():
            raise CancelledError(f"prediction stopped after {done} of {total} tiles")

    return on_tiles


def _window(model: LoadedModel, options: PredictionOptions) -> Window:
    """Lay out tiles and mirrorings, as many per forward pass as the device digests best.

    Mirrorings share a pass on a GPU only, which even one tile in all its mirrorings hardly fills.
    """
    patch = model.configuration.patch_size
    axes = model.mirror_axes if options.mirroring else ()
    budget = _batch_voxels(model.device, model.configuration.architecture.arch_kwargs.features_per_stage[0])
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
