"""What the small files of a model say, read within limits and checked against each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.domain.checked import unknown
from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.names import reader_names
from core.domain.plan import Configuration, ConfigurationName, Plan, PlanMistake, plan_error
from core.domain.plan_check import configuration_mistakes, transposition_mistakes
from core.domain.postprocessing import POSTPROCESSING_FILE, Postprocessing
from core.errors import ModelError
from core.network.official_postprocessing import PICKLED_POSTPROCESSING, unpickled_postprocessing
from core.network.pickled import PickleError

LARGEST_FILE: Final = 2**26
"""Bytes of a file that is read as a whole; the fingerprint of a hundred thousand cases has a quarter of that."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the files of a model say of it."""

    plan: Plan
    description: DatasetDescription
    labels: LabelSet
    name: ConfigurationName
    configuration: Configuration


def read_file(path: Path) -> bytes:
    """Read a small file.

    Raises:
        ModelError: It is not there, no ordinary file, or too large.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
            if len(content) <= LARGEST_FILE:
                return content
            raise ModelError(
                f"{path.name} is larger than any such file; is it the right one?", file=path.name
            )
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}", file=path.name) from error
    raise ModelError(f"{path.parent.name} holds no {path.name}; export the model again", file=path.name)


def read_described(folder: Path, name: ConfigurationName) -> Described:
    """Read plans.json and dataset.json of a model, as far as prediction depends on them.

    Raises:
        DomainError: One of them cannot be used, or they contradict each other.
    """
    plan = Plan.parse(read_file(folder / "plans.json"))
    description = DatasetDescription.parse(read_file(folder / "dataset.json"))
    configuration = plan.configuration(name)
    mistakes = [*_mistakes(plan, description, name)]
    if mistakes:
        raise plan_error(mistakes)
    return Described(plan, description, description.label_set(), name, configuration)


def _mistakes(plan: Plan, description: DatasetDescription, name: ConfigurationName) -> Iterator[PlanMistake]:
    """Find what contradicts what, and names that stand for nothing."""
    yield from transposition_mistakes(plan.transpose_forward, plan.transpose_backward)
    yield from unknown("image_reader_writer", [plan.image_reader_writer], reader_names(), "reader")
    intensities = plan.foreground_intensity_properties_per_channel
    for mistake in configuration_mistakes(plan.configuration(name), intensities, description.channels):
        yield PlanMistake(f"configurations.{name}.{mistake.where}", mistake.message)


def read_postprocessing(folder: Path, labels: LabelSet) -> Postprocessing | None:
    """Read what is removed from every segmentation, in our words or in those of the official tools.

    Args:
        folder: May hold postprocessing.json, or postprocessing.pkl, or neither.
        labels: Of the model.

    Returns:
        None where there is nothing to remove.

    Raises:
        ModelError: It cannot be used, or removes other labels than the model's.
    """
    if (folder / POSTPROCESSING_FILE).exists():
        found = Postprocessing.parse(read_file(folder / POSTPROCESSING_FILE))
    elif (folder / PICKLED_POSTPROCESSING).exists():
        found = _unpickled(read_file(folder / PICKLED_POSTPROCESSING))
    else:
        return None
    strange = sorted({label for group in found.keep_largest for label in group} - set(labels.foreground))
    if strange:
        raise ModelError(
            f"the postprocessing removes parts of label {strange[0]}, which dataset.json does not have; it belongs to "
            "another model",
            file=POSTPROCESSING_FILE,
        )
    return found if found.keep_largest else None


def _unpickled(content: bytes) -> Postprocessing:
    """Understand a postprocessing.pkl.

    Raises:
        ModelError: It is something else; nothing of it was run.
    """
    try:
        return unpickled_postprocessing(content)
    except PickleError as error:
        named = f"names {error.name}, which could run code and is never loaded" if error.name else str(error)
        raise ModelError(
            f"{PICKLED_POSTPROCESSING} cannot be used: {named}; determine the postprocessing again",
            file=PICKLED_POSTPROCESSING,
        ) from error
