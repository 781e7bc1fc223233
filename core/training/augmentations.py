"""Augmentations by name: what each draws for a sample, how a batch is changed by it, and how large its patches are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from core.domain.plan import Configuration
from core.domain.training import TrainingSettings
from core.extensions import Group
from core.registry import Registry
from core.training.augment import augmented, default_geometry, draw_default
from core.training.parameters import AugmentationParameters
from core.training.spatial import PatchGeometry, patch_geometry
from core.training.strong import draw_strong, strong_geometry, strongly_augmented
from core.training.turns import mirror_axes, swap_axis

Draw = Callable[[np.random.Generator, PatchGeometry, int, TrainingSettings], AugmentationParameters]
"""Draws the parameters of one sample, given its channels; all randomness comes from the generator."""

Apply = Callable[[Tensor, Tensor, Sequence[AugmentationParameters]], tuple[Tensor, Tensor]]
"""Changes voxels (b, c, z, y, x) and label maps (b, l, z, y, x) of a batch, everything but their spatial transform.

In 2D there is no z."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What happens to patches in training."""

    geometry: Callable[[Configuration, TrainingSettings], PatchGeometry]
    """How large the part of an image is that a patch is made of, and how far it may be turned."""

    draw: Draw

    apply: Apply | None
    """None: patches stay as they are."""

    mirrors: bool = True
    """Whether patches are mirrored, so that prediction may mirror too."""

    disturbed: float = 0.5
    """Probability of each label of a cascade's previous stage, given that its sample is disturbed; 0: none is."""


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation", Group.AUGMENTATION, Augmentation)
"""By the names that `TrainingSettings.augmentation` may have."""


def untouched_geometry(configuration: Configuration, settings: TrainingSettings) -> PatchGeometry:
    """Return the sizes of patches that are cut as they are.

    Source:
        Engine specification B 2.2, B 2.6.
    """
    geometry = patch_geometry(configuration, dummy_2d=settings.dummy_2d)
    return replace(geometry, initial=geometry.patch)


def draw_nothing(
    _rng: np.random.Generator, _geometry: PatchGeometry, _channels: int, _settings: TrainingSettings
) -> AugmentationParameters:
    """Leave a sample as it is."""
    return AugmentationParameters()


DEFAULT = AUGMENTATIONS.register("default")(
    Augmentation(geometry=default_geometry, draw=draw_default, apply=augmented)
)
"""Engine specification B 2.4."""

STRONG = AUGMENTATIONS.register("strong")(
    Augmentation(geometry=strong_geometry, draw=draw_strong, apply=strongly_augmented, disturbed=1.0)
)
"""Engine specification B 2.7."""

NONE = AUGMENTATIONS.register("none")(
    Augmentation(geometry=untouched_geometry, draw=draw_nothing, apply=None, mirrors=False, disturbed=0.0)
)
"""Engine specification B 2.6, B 2.8; also what validation does."""


def prediction_mirror_axes(configuration: Configuration, settings: TrainingSettings) -> tuple[int, ...]:
    """Return the axes of the network's patch along which prediction may mirror.

    Those of training, but for the one whose mirroring lets labels change places: there the network says left
    where it is shown right.

    Raises:
        UnknownNameError: No augmentation has the name that the settings give.
        TrainingError: The settings name an axis that the patch does not have.

    Source:
        Engine specification B 2.1, B 2.8.
    """
    dimensions = len(configuration.patch_size)
    allowed, swapping = mirror_axes(dimensions, settings), swap_axis(dimensions, settings)
    if not AUGMENTATIONS.get(settings.augmentation).mirrors:
        return ()
    return tuple(axis for axis in allowed if axis != swapping)
