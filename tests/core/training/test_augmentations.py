import numpy as np
import pytest

from core.domain.training import TrainingSettings
from core.errors import TrainingError, UnknownNameError
from core.training.augmentations import AUGMENTATIONS, prediction_mirror_axes
from core.training.parameters import AugmentationParameters
from tests.plans import small_plan

_, VOLUME = small_plan([1, 1, 1], entries={"patch_size": [16, 20, 24]})


def test_without_augmentation_nothing_is_drawn_and_no_larger_patch_read() -> None:
    settings, rng = TrainingSettings(augmentation="none"), np.random.default_rng(0)
    none = AUGMENTATIONS.get("none")
    geometry = none.geometry(VOLUME, settings)

    assert geometry.initial == geometry.patch == (16, 20, 24)
    assert none.draw(rng, geometry, 2, settings) == AugmentationParameters()
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        (TrainingSettings(), (0, 1, 2)),
        (TrainingSettings(mirror_axes=(0, 1)), (0, 1)),
        (TrainingSettings(mirror_axes=()), ()),
        (TrainingSettings(augmentation="none"), ()),
        (TrainingSettings(augmentation="none", mirror_axes=(0,)), ()),
        (TrainingSettings(swapped_labels=(("left", "right"),), swap_axis=2), (0, 1)),
    ],
)
def test_prediction_mirrors_as_training_but_not_from_left_to_right(
    settings: TrainingSettings, axes: tuple[int, ...]
) -> None:
    assert prediction_mirror_axes(VOLUME, settings) == axes


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no augmentation named 'wild'; choose one of: .*default"):
        prediction_mirror_axes(VOLUME, TrainingSettings(augmentation="wild"))
    plane = VOLUME.model_copy(update={"patch_size": (16, 20)})
    with pytest.raises(TrainingError, match="mirror_axes names axis 2"):
        prediction_mirror_axes(plane, TrainingSettings(mirror_axes=(2,)))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_mirroring_is_drawn_along_the_allowed_axes_only(name: str) -> None:
    settings, rng = TrainingSettings(mirror_axes=(0, 2)), np.random.default_rng(0)
    augmentation = AUGMENTATIONS.get(name)
    geometry = augmentation.geometry(VOLUME, settings)

    drawn = {augmentation.draw(rng, geometry, 1, settings).mirrored for _ in range(100)}

    assert drawn == ({(), (0,), (2,), (0, 2)} if augmentation.mirrors else {()})
