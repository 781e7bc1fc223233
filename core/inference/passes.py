"""One trained model over one preprocessed case → slabs of logits: folds, tiles per forward pass, where sums live."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from core.domain.labels import LabelSet
from core.domain.model import PredictionOptions
from core.domain.plan import Architecture
from core.domain.tiling import slab_axis
from core.domain.training import Fold
from core.errors import ModelError
from core.inference.decision import probabilities_of
from core.inference.model import LoadedModel, tile_network
from core.inference.requirements import lacking
from core.inference.slabs import Accumulator, Slab, fold_mean_logits, logit_slabs, slab_values, tile_count
from core.inference.sliding_window import OnTiles, TileNetwork, Window, mirror_passes
from core.io.case_store import PreprocessedCase
from core.io.image import FloatArray

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
class Run:
    """A model, and a case that it is to segment."""

    model: LoadedModel
    case: PreprocessedCase
    folds: tuple[Fold, ...]
    voxels_czyx: Tensor
    """What the networks see, in a cascade with the labels of the stage before as the last channel."""
    window: Window

    @property
    def tiles(self) -> int:
        """How many tiles there are, of all folds."""
        return tile_count(self.voxels_czyx, self.window, folds=len(self.folds))

    def axis_of(self, file_axis: int) -> int:
        """Return which axis of the preprocessed case an axis of the file is."""
        return self.model.plan.transpose_forward.index(file_axis)


def run_of(model: LoadedModel, case: PreprocessedCase, options: PredictionOptions) -> Run:
    """Decide which folds see a case, and in which tiles.

    Raises:
        ModelError: A fold is not loaded, or the stage before segmented nothing.
    """
    voxels_czyx = torch.from_numpy(_network_input(model, case))
    return Run(model, case, _chosen_folds(model, options), voxels_czyx, _window(model, options))


def slabs_of(run: Run, axis: int, on_tiles: OnTiles, *, with_chances: bool = False) -> Iterator[Slab]:
    """Average the logits of the folds over a case, slab by slab.

    Args:
        run: From `run_of`.
        axis: Of the case, along which slabs follow each other.
        on_tiles: Told how many tiles are done; raises to stop.
        with_chances: Whether the mean probabilities of all folds and mirrorings follow the logits, one more per
            head.

    Raises:
        ModelError: A logit is not finite.
    """
    return logit_slabs(*_arguments(run, axis, with_chances=with_chances), on_tiles)


def logits_of(run: Run, on_tiles: OnTiles) -> Tensor:
    """Return the logits of the whole case, logits_kzyx, for whoever needs them side by side.

    Raises:
        ModelError: A logit is not finite.
    """
    return fold_mean_logits(*_arguments(run, 0), on_tiles)


def common_axis(runs: Sequence[Run]) -> int:
    """Choose the axis of the file along which slabs of all models follow each other, so that least is held at a time."""
    wished = {
        run.model.plan.transpose_forward[slab_axis(run.voxels_czyx.shape[1:], run.window.patch)]
        for run in runs
    }
    return min(sorted(wished), key=lambda axis: sum(_sums(run, run.axis_of(axis), 1) for run in runs))


def _sums(run: Run, axis: int, arrays: int) -> int:
    """Return how many sums are held at a time."""
    heads = arrays * len(run.model.labels.heads)
    return slab_values(run.voxels_czyx.shape[1:], run.window, heads, axis)


def _arguments(
    run: Run, axis: int, *, with_chances: bool = False
) -> tuple[list[TileNetwork], Tensor, Window, Accumulator]:
    """Return what the sliding window needs."""
    model = run.model
    labels = () if model.configuration.previous_stage is None else model.labels.foreground
    networks = [
        tile_network(model.networks[fold], model.precision, model.device, labels) for fold in run.folds
    ]
    if with_chances:
        networks = [_with_chances(network, model.labels) for network in networks]
    arrays = 2 if with_chances else 1
    home = _home(run.voxels_czyx, _sums(run, axis, arrays), model.device)
    accumulator = Accumulator(arrays * len(model.labels.heads), home, axis=axis)
    return networks, run.voxels_czyx.to(home), run.window, accumulator


def _with_chances(network: TileNetwork, labels: LabelSet) -> TileNetwork:
    """Let a network say its probabilities as well; those of several passes are averaged as they are."""

    def run(tiles: Tensor) -> Tensor:
        logits = network(tiles).float()
        return torch.cat([logits, probabilities_of(logits, labels, 1)], 1)

    return run


def _network_input(model: LoadedModel, case: PreprocessedCase) -> FloatArray:
    """Return the voxels of a case, in a cascade with what the previous stage segmented as the last channel.

    Raises:
        ModelError: It segmented nothing.
    """
    if model.configuration.previous_stage is None:
        return np.require(case.voxels_czyx, dtype=np.float32, requirements=["C", "W"])
    if case.previous_zyx is None:
        raise lacking(model)
    return np.concatenate([case.voxels_czyx, case.previous_zyx[np.newaxis]], dtype=np.float32)


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


def _home(voxels_czyx: Tensor, sums: int, device: torch.device) -> torch.device:
    """Return where image and sums live: on the network's device if they fit there, from their sizes."""
    if device.type == "cpu":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    needed = (voxels_czyx.numel() + sums) * voxels_czyx.element_size()
    return device if needed <= free * GPU_SHARE else torch.device("cpu")
