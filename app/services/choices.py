"""Whether a training can have the settings that a client chose: names that exist, labels of the dataset."""

from collections import Counter
from collections.abc import Mapping

from app.errors import RequestError
from core.domain.dataset import DatasetDescription
from core.domain.labels import BACKGROUND, Region
from core.domain.names import augmentation_names, loss_names
from core.domain.training import TrainingChoices, TrainingSettings


def require_possible(choices: TrainingSettings, description: DatasetDescription | None) -> None:
    """Refuse settings that no training of a dataset can have; what depends on the plan, its jobs tell.

    Asked once, with the request: what a package adds may be gone when the training is looked at later.

    Args:
        choices: The settings.
        description: The dataset's dataset.json.

    Raises:
        RequestError: A name does not exist, or one setting keeps another from ever having an effect.
    """
    for what, name, known in (
        ("loss", choices.loss, loss_names()),
        ("augmentation", choices.augmentation, augmentation_names()),
    ):
        if name not in known:
            raise RequestError(
                f"settings.{what}: there is no {what} named {name!r}; choose one of: {', '.join(sorted(known))}",
                name=name,
            )
    if bool(choices.swapped_labels) != (choices.swap_axis is not None):
        raise RequestError(
            "settings: swapped_labels need swap_axis, and it needs them: send the pairs of labels and the axis of the "
            "patch that runs from left to right"
        )
    _require_reachable(choices)
    if description is not None:
        _require_labels(choices, description.labels)


def _require_reachable(choices: TrainingSettings) -> None:
    """Refuse labels that would never change places, and a warm-up that never ends.

    Raises:
        RequestError: There are such.
    """
    if choices.swap_axis is not None and not _is_mirrored(choices, choices.swap_axis):
        raise RequestError(
            f"settings: swap_axis is {choices.swap_axis}, but mirror_axes {list(choices.mirror_axes or ())} leave that "
            "axis out, so that labels would never change places; add it to mirror_axes, or leave swapped_labels and "
            "swap_axis out"
        )
    if choices.warmup_epochs >= choices.epochs:
        raise RequestError(
            f"settings.warmup_epochs is {choices.warmup_epochs}, but the training has epochs {choices.epochs}, so that "
            "the schedule would never begin; lower it, or train for more epochs"
        )


def _is_mirrored(choices: TrainingChoices, axis: int) -> bool:
    """Whether patches are mirrored along an axis; all are where nothing is said."""
    return choices.mirror_axes is None or axis in choices.mirror_axes


def _require_labels(choices: TrainingChoices, labels: Mapping[str, Region]) -> None:
    """Refuse to let labels change places that are none, or unions of several, or that stand in two pairs.

    Raises:
        RequestError: They are; the sentence names one.
    """
    names = [name for pair in choices.swapped_labels for name in pair]
    for name, count in Counter(names).items():
        value = labels.get(name)
        if not isinstance(value, int) or value == BACKGROUND:
            single = [one for one, other in labels.items() if isinstance(other, int) and other != BACKGROUND]
            raise RequestError(
                f"settings.swapped_labels: {name!r} is no single foreground label of the dataset; it has: "
                f"{', '.join(single) or 'none'}",
                name=name,
            )
        if count > 1:
            raise RequestError(
                f"settings.swapped_labels name {name!r} more than once; a label changes places with one other",
                name=name,
            )
