"""What a folder holds that can segment: a trained model, or an ensemble of several, with its postprocessing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from core.domain.dataset import DatasetDescription
from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.labels import LabelSet
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.postprocessing import POSTPROCESSING_FILE, Postprocessing
from core.domain.training import Fold
from core.errors import DomainError, ModelError
from core.inference.model import LoadedModel, load_model, load_stage, with_previous
from core.network.device import Precision


@dataclass(frozen=True, slots=True)
class LoadedEnsemble:
    """Several trained models whose probabilities are averaged on the image's grid."""

    members: tuple[LoadedModel, ...]
    """Of the same channels and labels; the first one's plan names the reader."""
    postprocessing: Postprocessing | None = None

    @property
    def description(self) -> DatasetDescription:
        """Of the dataset that all were trained on."""
        return self.members[0].description

    @property
    def plan(self) -> Plan:
        """Of the first member."""
        return self.members[0].plan

    @property
    def labels(self) -> LabelSet:
        """What the heads stand for."""
        return self.members[0].labels

    @property
    def configuration_name(self) -> str:
        """Those of the members, in their order."""
        return " + ".join(member.configuration_name for member in self.members)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Those of the first member."""
        return self.members[0].folds

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.members[0].device

    @property
    def precision(self) -> Precision:
        """In which they compute."""
        return self.members[0].precision

    @property
    def size_bytes(self) -> int:
        """Memory that all weights take."""
        return sum(member.size_bytes for member in self.members)


TrainedModel = LoadedModel | LoadedEnsemble
"""What can segment an image."""


def members_of(model: TrainedModel) -> tuple[LoadedModel, ...]:
    """Return the models whose probabilities are averaged; one alone is its own member."""
    return model.members if isinstance(model, LoadedEnsemble) else (model,)


def load_trained(
    folder: Path, options: PredictionOptions, *, previous_model: Path | None = None, alone: bool = False
) -> TrainedModel:
    """Load a model folder or that of an ensemble, with the postprocessing that lies in it.

    Args:
        folder: As for `load_model`, or with ensemble.json and a model folder per member.
        options: Folds, precision and device, of every member.
        previous_model: Folder of the model of a cascade's stage before, if not the one that lies in the folder.
        alone: Whether to leave out the stage before, because its segmentations are given.

    Raises:
        ModelError: Something is missing or does not fit; the sentence names the file.
        DomainError: As `load_model`.
    """
    postprocessing = _postprocessing(folder)
    if (folder / ENSEMBLE_FILE).is_file():
        if previous_model is not None or alone:
            raise ModelError(
                "an ensemble brings the stages before its members along; predict without a previous stage"
            )
        return LoadedEnsemble(_members(folder, options), postprocessing)
    if previous_model is not None:
        before = load_model(previous_model, options.model_copy(update={"folds": None}))
        model = with_previous(load_stage(folder, options), before)
    else:
        model = load_stage(folder, options) if alone else load_model(folder, options)
    return replace(model, postprocessing=postprocessing)


def _members(folder: Path, options: PredictionOptions) -> tuple[LoadedModel, ...]:
    """Load the members of an ensemble.

    Raises:
        ModelError: They are of different datasets.
        DomainError: As `load_model`; the sentence names the member.
    """
    record = EnsembleRecord.parse((folder / ENSEMBLE_FILE).read_bytes())
    members: list[LoadedModel] = []
    for name in record.members:
        try:
            members.append(load_model(folder / MEMBERS_FOLDER / name, options))
        except DomainError as error:
            message = f"{MEMBERS_FOLDER}/{name}: {error.message}"
            raise type(error)(message, **error.context) from error
        first, last = members[0], members[-1]
        if (first.description.channels, first.labels) != (last.description.channels, last.labels):
            raise ModelError(
                f"{MEMBERS_FOLDER}/{name} has other channels or labels than {MEMBERS_FOLDER}/{record.members[0]}; only "
                "models of one dataset can be averaged"
            )
    return tuple(members)


def _postprocessing(folder: Path) -> Postprocessing | None:
    """Read what is removed from every segmentation; None where nothing is.

    Raises:
        ModelError: The record cannot be used.
    """
    path = folder / POSTPROCESSING_FILE
    return Postprocessing.parse(path.read_bytes()) if path.is_file() else None
