"""What is drawn for a batch: cases, places in them and augmentations, as mere numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.domain.dataset import CaseId
from core.domain.geometry import Shape
from core.domain.labels import LabelSet
from core.domain.plan import Configuration
from core.domain.record import Record
from core.domain.training import TrainingSettings
from core.io.case_store import PreprocessedCase
from core.training.augmentations import AUGMENTATIONS, NONE, Augmentation
from core.training.parameters import AugmentationParameters
from core.training.positions import draw_centre, draw_start, forced_from, start_bounds
from core.training.previous import PreviousParameters, draw_previous
from core.training.ranks import ALONE, Ranks
from core.training.spatial import PatchGeometry
from core.training.targets import Scales


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

    ranks: Ranks = ALONE
    """The processes that share a batch; all of them draw the whole of it, and each makes its share."""

    @property
    def augmentation(self) -> Augmentation:
        """What happens to patches.

        Raises:
            UnknownNameError: No augmentation has the name that the settings give.
        """
        return AUGMENTATIONS.get(self.settings.augmentation) if self.is_training else NONE

    @property
    def geometry(self) -> PatchGeometry:
        """The sizes of patches; without augmentation none is larger than the network's."""
        return self.augmentation.geometry(self.configuration, self.settings)

    @property
    def is_cascade(self) -> bool:
        """Whether the network also sees what a previous stage segmented."""
        return self.configuration.previous_stage is not None

    @property
    def disturbed_labels(self) -> float:
        """Probability of each label of a cascade's previous stage to be disturbed, given that its sample is.

        Source:
            Engine specification B 2.4, B 2.7; B 2.8: all of them where labels are the nearest voxel's.
        """
        share = self.augmentation.disturbed
        return 1.0 if share > 0 and self.settings.label_interpolation == "nearest" else share


class SampleParameters(Record):
    """Everything random about one sample: mere numbers, so that it can be recorded and replayed."""

    case_id: CaseId
    start: Shape
    """First voxel of the initial patch, (z, y, x); it may lie outside the image."""
    augmentation: AugmentationParameters
    previous: PreviousParameters = PreviousParameters()
    """Of the labels of a cascade's previous stage."""


def draw_batch(setup: SamplingSetup, key: tuple[int, int]) -> tuple[SampleParameters, ...]:
    """Draw the parameters of one batch.

    Either the last positions are centred on foreground, or, if the settings say so, those that chance selects.
    Its probability is `foreground_share` itself, whatever the size of the batch.

    Args:
        setup: Cases and rules.
        key: Epoch and iteration.

    Source:
        Engine specification B 1.6, B 3.4, B 5.
    """
    batch_size, share = setup.configuration.batch_size, setup.settings.foreground_share
    forced = batch_size if setup.settings.foreground_is_drawn else forced_from(batch_size, share)
    return tuple(
        _draw_sample(setup, (*key, position), is_forced=position >= forced) for position in range(batch_size)
    )


def _draw_sample(setup: SamplingSetup, key: tuple[int, int, int], *, is_forced: bool) -> SampleParameters:
    """Draw a case, a place in it and an augmentation."""
    settings = setup.settings
    stream = np.random.SeedSequence(settings.seed, spawn_key=(int(setup.is_training), *key))
    rng = np.random.Generator(np.random.Philox(stream))
    geometry = setup.geometry
    if settings.foreground_is_drawn:
        is_forced = rng.random() < settings.foreground_share
    case_ids = sorted(setup.cases)
    case_id = case_ids[rng.integers(len(case_ids))]
    case = setup.cases[case_id]
    channels, z, y, x = case.voxels_czyx.shape
    centre = draw_centre(rng, case, setup.labels, is_forced=is_forced)
    bounds = start_bounds((z, y, x), geometry.initial, geometry.patch)
    start = draw_start(rng, bounds, geometry.initial, centre)
    augmentation = setup.augmentation.draw(rng, geometry, channels, settings)
    previous = PreviousParameters()
    share = setup.disturbed_labels
    if setup.is_cascade and share > 0:
        previous = draw_previous(rng, len(setup.labels.foreground), share)
    return SampleParameters(case_id=case_id, start=start, augmentation=augmentation, previous=previous)
