"""Which patches make a batch, and how batches are made ahead of the network that waits for them."""

import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.domain.dataset import CaseId
from core.domain.geometry import Box, Shape
from core.domain.labels import OUTSIDE, LabelSet, label_key
from core.domain.plan import Configuration
from core.domain.record import Record
from core.domain.training import TrainingSettings
from core.errors import TrainingError
from core.io.case_store import PreprocessedCase
from core.io.image import LabelArray
from core.training.augment import AugmentationParameters, augmented, draw_augmentation, masked
from core.training.positions import draw_centre, draw_start, forced_from, read_box, start_bounds
from core.training.prefetch import made_ahead
from core.training.spatial import PatchGeometry, needed_box, patch_geometry, transformed
from core.training.targets import Scales, make_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingSetup:
    """What batches are drawn from, and what they are to look like."""

    cases: Mapping[CaseId, PreprocessedCase]
    """The cases of the split, memory-mapped."""

    configuration: Configuration
    labels: LabelSet

    masked_channels: tuple[bool, ...]
    """Which channels were normalized within the nonzero mask."""

    settings: TrainingSettings

    deep_supervision_scales: Scales
    """One row per output of the network, highest resolution first; none: a single one."""

    is_training: bool
    """Whether patches are augmented; the batches of validation are drawn by the same rules."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the network sees in one step, and what it should have said."""

    voxels_bczyx: Tensor
    """float32; (b, c, y, x) for a 2D network."""

    targets: tuple[Tensor, ...]
    """Per output, highest resolution first: labels int16 (b, 1, z, y, x), the ignore label among them;
    with regions bool (b, r, z, y, x), a last channel marking the ignore label if there is one."""

    case_ids: tuple[CaseId, ...]


class SampleParameters(Record):
    """Everything random about one sample: mere numbers, so that it can be recorded and replayed."""

    case_id: CaseId
    start: Shape
    """First voxel of the initial patch, (z, y, x); it may lie outside the image."""
    augmentation: AugmentationParameters


def batches(setup: SamplingSetup, epoch: int, device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch, made ahead by one thread.

    Batch k of an epoch depends on the seed, the epoch and k alone, so a resumed training goes on along
    the path that it would have taken.

    Args:
        setup: Cases and rules; `is_training` tells how many batches there are.
        epoch: Counted from 0.
        device: Where patches are augmented and the network waits for them.

    Raises:
        TrainingError: There is no case, or a case cannot be sampled from.
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
    geometry = _geometry(setup)
    samples = draw_batch(setup, key)
    patches = [_patch(setup.cases[sample.case_id], sample, geometry, device) for sample in samples]
    voxels_bczyx = torch.stack([voxels_czyx for voxels_czyx, _ in patches])
    labels_bzyx = torch.stack([labels_zyx for _, labels_zyx in patches])
    if setup.configuration.is_2d:
        voxels_bczyx, labels_bzyx = voxels_bczyx.squeeze(2), labels_bzyx.squeeze(1)
    if setup.is_training:
        parameters = [sample.augmentation for sample in samples]
        voxels_bczyx, labels_bzyx = augmented(voxels_bczyx, labels_bzyx, parameters)
        voxels_bczyx = masked(voxels_bczyx, labels_bzyx, setup.masked_channels)
    return Batch(
        voxels_bczyx=voxels_bczyx,
        targets=make_targets(labels_bzyx, setup.labels, setup.deep_supervision_scales),
        case_ids=tuple(sample.case_id for sample in samples),
    )


def draw_batch(setup: SamplingSetup, key: tuple[int, int]) -> tuple[SampleParameters, ...]:
    """Draw the parameters of one batch; the last positions are centred on foreground.

    Args:
        setup: Cases and rules.
        key: Epoch and iteration.

    Source:
        Engine specification B 1.6, B 3.4.
    """
    batch_size = setup.configuration.batch_size
    forced = forced_from(batch_size, setup.settings.foreground_share)
    return tuple(
        _draw_sample(setup, (*key, position), is_forced=position >= forced) for position in range(batch_size)
    )


def _draw_sample(setup: SamplingSetup, key: tuple[int, int, int], *, is_forced: bool) -> SampleParameters:
    """Draw a case, a place in it and, in training, an augmentation."""
    stream = np.random.SeedSequence(setup.settings.seed, spawn_key=(int(setup.is_training), *key))
    rng = np.random.Generator(np.random.Philox(stream))
    geometry = _geometry(setup)
    case_ids = sorted(setup.cases)
    case_id = case_ids[rng.integers(len(case_ids))]
    case = setup.cases[case_id]
    channels, z, y, x = case.voxels_czyx.shape
    centre = draw_centre(rng, case, setup.labels, is_forced=is_forced)
    bounds = start_bounds((z, y, x), geometry.initial, geometry.patch)
    start = draw_start(rng, bounds, geometry.initial, centre)
    augmentation = (
        draw_augmentation(rng, geometry, channels) if setup.is_training else AugmentationParameters()
    )
    return SampleParameters(case_id=case_id, start=start, augmentation=augmentation)


def _geometry(setup: SamplingSetup) -> PatchGeometry:
    """Return the sizes of patches; validation draws no larger patch than it keeps."""
    geometry = patch_geometry(setup.configuration)
    return geometry if setup.is_training else replace(geometry, initial=geometry.patch)


def _patch(
    case: PreprocessedCase, sample: SampleParameters, geometry: PatchGeometry, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Read what a sample needs of its case and cut, rotate or scale it to the patch.

    Returns:
        Voxels (c, z, y, x) and labels (z, y, x) on the device.
    """
    spatial = sample.augmentation.spatial
    box = _shifted(needed_box(geometry, spatial), sample.start)
    within = _shifted(_box_of(geometry.initial), sample.start)
    voxels = read_box(case.voxels_czyx, box, within, 0)
    labels = read_box(_labels(case, sample.case_id), box, within, OUTSIDE).astype(np.int16, copy=False)
    voxels_czyx, labels_zyx = torch.from_numpy(voxels).to(device), torch.from_numpy(labels).to(device)
    if spatial is None:
        return voxels_czyx, labels_zyx
    return transformed(voxels_czyx, labels_zyx, geometry, spatial)


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


def _require_usable(setup: SamplingSetup) -> None:
    """Refuse splits that no batch can be drawn from, before the first batch is waited for.

    Raises:
        TrainingError: There is no case, a case has no labels, or it was preprocessed before the dataset
            declared its ignore label.
    """
    if not setup.cases:
        raise TrainingError("there is no case to draw patches from; give the split at least one")
    for case_id, case in setup.cases.items():
        _labels(case, case_id)
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
