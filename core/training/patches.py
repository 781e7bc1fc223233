"""Patches read, augmented and put together to batches, ahead of the network that waits for them."""

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.domain.dataset import CaseId
from core.domain.geometry import Box, Shape
from core.domain.labels import OUTSIDE, label_key
from core.errors import TrainingError
from core.io.case_store import PreprocessedCase
from core.io.image import LabelArray
from core.training.augmentations import prediction_mirror_axes
from core.training.positions import read_box
from core.training.prefetch import made_ahead
from core.training.previous import with_previous
from core.training.samples import SampleParameters, SamplingSetup, draw_batch
from core.training.spatial import needed_box
from core.training.targets import make_targets
from core.training.turns import exchanged, swap_axis, swapped_values
from core.training.warp import transformed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the network sees in one step, and what it should have said."""

    voxels_bczyx: Tensor
    """float32; (b, c, y, x) for a 2D network. In a cascade the last channels are the previous stage's labels."""

    targets: tuple[Tensor, ...]
    """Per output, highest resolution first: labels int16 (b, 1, z, y, x), the ignore label among them;
    with regions bool (b, r, z, y, x), a last channel marking the ignore label if there is one."""

    case_ids: tuple[CaseId, ...]


def batches(setup: SamplingSetup, epoch: int, device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch, made ahead by one thread.

    Batch k of an epoch depends on the seed, the epoch and k alone, so a resumed training goes on along
    the path that it would have taken.

    Args:
        setup: Cases and rules; `is_training` tells how many batches there are.
        epoch: Counted from 0.
        device: Where patches are augmented and the network waits for them.

    Raises:
        TrainingError: There is no case, a case cannot be sampled from, or the settings do not fit.
        UnknownNameError: No augmentation has the name that the settings give.
    """
    _require_usable(setup)
    if epoch == 0:
        _warn_of_unannotated(setup)
    settings = setup.settings
    count = settings.iterations_per_epoch if setup.is_training else settings.validation_iterations_per_epoch
    if device.type == "cuda":
        return _made_on_gpu(setup, epoch, count, device)
    return made_ahead(lambda iteration: make_batch(setup, (epoch, iteration), device), count)


def _made_on_gpu(
    setup: SamplingSetup, epoch: int, count: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Make batches on a stream of their own, so that waiting for one never waits for the network."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def make(iteration: int) -> Batch:
        with torch.cuda.stream(stream):
            batch = make_batch(setup, (epoch, iteration), device)
        stream.synchronize()
        return batch

    for batch in made_ahead(make, count):
        for tensor in (batch.voxels_bczyx, *batch.targets):
            # The memory may serve the next batch only when the network is done with this one.
            tensor.record_stream(torch.cuda.current_stream(device))
        yield batch


def make_batch(setup: SamplingSetup, key: tuple[int, int], device: torch.device) -> Batch:
    """Make the batch of one (epoch, iteration)."""
    samples = draw_batch(setup, key)[setup.ranks.share(setup.configuration.batch_size)]
    patches = [_patch(setup, sample, device) for sample in samples]
    voxels_bczyx = torch.stack([voxels_czyx for voxels_czyx, _ in patches])
    labels_blzyx = torch.stack([labels_lzyx for _, labels_lzyx in patches])
    if setup.configuration.is_2d:
        voxels_bczyx, labels_blzyx = voxels_bczyx.squeeze(2), labels_blzyx.squeeze(2)
    apply = setup.augmentation.apply
    if apply is not None:
        voxels_bczyx, labels_blzyx = apply(
            voxels_bczyx, labels_blzyx, [sample.augmentation for sample in samples]
        )
        labels_blzyx = _sides_exchanged(setup, labels_blzyx, samples)
        voxels_bczyx = masked(voxels_bczyx, labels_blzyx[:, 0], setup.masked_channels)
    if setup.is_cascade:
        disturbed = [sample.previous for sample in samples]
        voxels_bczyx = with_previous(voxels_bczyx, labels_blzyx[:, 1], setup.labels.foreground, disturbed)
    return Batch(
        voxels_bczyx=voxels_bczyx,
        targets=make_targets(labels_blzyx[:, 0], setup.labels, setup.deep_supervision_scales),
        case_ids=tuple(sample.case_id for sample in samples),
    )


def _sides_exchanged(
    setup: SamplingSetup, labels_blzyx: Tensor, samples: Sequence[SampleParameters]
) -> Tensor:
    """Let left and right labels change places where a sample was mirrored from left to right."""
    axis = swap_axis(len(setup.configuration.patch_size), setup.settings)
    is_mirrored = [axis in sample.augmentation.mirrored for sample in samples]
    return exchanged(labels_blzyx, is_mirrored, swapped_values(setup.labels, setup.settings), setup.labels)


def _patch(setup: SamplingSetup, sample: SampleParameters, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read what a sample needs of its case and cut, rotate or scale it to the patch.

    Returns:
        Voxels (c, z, y, x) and label maps (l, z, y, x) on the device: the reference, and in a cascade what the
        previous stage segmented.
    """
    case, geometry = setup.cases[sample.case_id], setup.geometry
    spatial = sample.augmentation.spatial
    box = _shifted(needed_box(geometry, spatial), sample.start)
    within = _shifted(_box_of(geometry.initial), sample.start)
    voxels = read_box(case.voxels_czyx, box, within, 0)
    maps = [_labels(case, sample.case_id)]
    if setup.is_cascade:
        maps.append(_previous(case, sample.case_id))
    labels = np.stack([read_box(one_zyx, box, within, OUTSIDE, np.int16) for one_zyx in maps])
    voxels_czyx, labels_lzyx = torch.from_numpy(voxels).to(device), torch.from_numpy(labels).to(device)
    if spatial is None:
        return voxels_czyx, labels_lzyx
    is_voted = setup.settings.label_interpolation == "linear"
    return transformed(voxels_czyx, labels_lzyx, geometry, spatial, is_voted=is_voted)


def masked(voxels_bczyx: Tensor, labels_bzyx: Tensor, channels: Sequence[bool]) -> Tensor:
    """Set channels that were normalized within the mask to 0 outside it again, as noise and gamma filled it.

    Args:
        voxels_bczyx: Augmented patches.
        labels_bzyx: Their labels, -1 outside the mask.
        channels: Which channels were normalized within the mask.

    Source:
        Engine specification B 2.4.12.
    """
    if not any(channels):
        return voxels_bczyx
    shape = (1, -1, *(1 for _ in labels_bzyx.shape[1:]))
    concerned = torch.tensor(channels, device=voxels_bczyx.device).view(shape)
    return voxels_bczyx.masked_fill((labels_bzyx < 0).unsqueeze(1) & concerned, 0)


def _box_of(shape: Shape) -> Box:
    """Return the box that starts at the origin."""
    z, y, x = shape
    return ((0, z), (0, y), (0, x))


def _shifted(box: Box, start: Shape) -> Box:
    """Move a box."""
    z, y, x = ((low + first, high + first) for (low, high), first in zip(box, start, strict=True))
    return (z, y, x)


def _labels(case: PreprocessedCase, case_id: CaseId) -> LabelArray:
    """Return the labels of a case.

    Raises:
        TrainingError: It was preprocessed without any.
    """
    if case.labels_zyx is None:
        raise TrainingError(
            f"case {case_id} was preprocessed without labels; add its label file and preprocess it again",
            case=case_id,
        )
    return case.labels_zyx


def _previous(case: PreprocessedCase, case_id: CaseId) -> LabelArray:
    """Return what the previous stage of a cascade segmented in a case.

    Raises:
        TrainingError: It segmented nothing.
    """
    if case.previous_zyx is None:
        raise TrainingError(
            f"case {case_id} has no segmentation of the previous stage; train and validate every fold of that "
            "stage first",
            case=case_id,
        )
    return case.previous_zyx


def _require_usable(setup: SamplingSetup) -> None:
    """Refuse splits that no batch can be drawn from, before the first batch is waited for.

    Raises:
        TrainingError: There is no case, a case has no labels, or in a cascade no segmentation of the previous
            stage, or was preprocessed before the dataset declared its ignore label; or the settings do not fit
            the patch or the labels.
        UnknownNameError: No augmentation has the name that the settings give.
    """
    prediction_mirror_axes(setup.configuration, setup.settings)
    swapped_values(setup.labels, setup.settings)
    if not setup.cases:
        raise TrainingError("there is no case to draw patches from; give the split at least one")
    for case_id, case in setup.cases.items():
        _labels(case, case_id)
        if setup.is_cascade:
            _previous(case, case_id)
        if setup.labels.ignore is not None and label_key(setup.labels.annotated) not in case.locations:
            raise TrainingError(
                f"case {case_id} was preprocessed without the ignore label that dataset.json declares; "
                "preprocess the dataset again",
                case=case_id,
            )


def _warn_of_unannotated(setup: SamplingSetup) -> None:
    """Name the cases that teach nothing but background, since nobody annotated a voxel of them."""
    if setup.labels.ignore is None:
        return
    key = label_key(setup.labels.annotated)
    unannotated = [case_id for case_id, case in setup.cases.items() if len(case.locations[key]) == 0]
    if unannotated:
        log.warning("cases without any annotated voxel are sampled anywhere", extra={"cases": unannotated})
