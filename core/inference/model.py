"""A trained-model folder, loaded: plan, labels and one network per fold, ready for its device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.model import (
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    ModelRecord,
    PredictionOptions,
    fold_name,
)
from core.domain.plan import Configuration, ConfigurationName, Plan, PlanMistake, plan_error
from core.domain.plan_check import configuration_mistakes, transposition_mistakes
from core.domain.postprocessing import Postprocessing
from core.domain.stages import input_channels
from core.domain.training import Fold
from core.errors import DomainError, ModelError
from core.inference.cascade import with_labels_apart
from core.inference.sliding_window import TileNetwork
from core.network.contract import InFormat, Network
from core.network.device import Precision, choose_device, choose_precision
from core.network.unet import UNet, build_network
from core.network.weights import differences

FOLD_ALL: Fold = "all"
"""The fold that trained on every case; used where no numbered fold exists, or by request."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model in memory."""

    description: DatasetDescription
    plan: Plan
    configuration_name: ConfigurationName
    configuration: Configuration
    labels: LabelSet
    mirror_axes: tuple[int, ...]
    networks: Mapping[Fold, nn.Module]
    """On the device, in the precision, without deep supervision."""
    precision: Precision
    device: torch.device
    previous: "LoadedModel | None" = None
    """In a cascade, the model of the stage before, if it is at hand."""
    postprocessing: Postprocessing | None = None
    """What is removed from every segmentation of an image."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds in memory."""
        return tuple(self.networks)

    @property
    def size_bytes(self) -> int:
        """Memory that the weights take, those of a cascade's earlier stages too, for whoever keeps several models."""
        own: int = sum(
            weight.numel() * weight.element_size()
            for network in self.networks.values()
            for weight in network.state_dict().values()
        )
        return own if self.previous is None else own + self.previous.size_bytes


def load_model(folder: Path, options: PredictionOptions) -> LoadedModel:
    """Load a trained model; a cascade with every stage before, as far as the folder holds them.

    Args:
        folder: Holds model.json, plans.json, dataset.json and a folder per fold; in a cascade the folder
            `previous`, the model of the stage before.
        options: Its folds, precision and device. Of stages before, every fold is taken.

    Raises:
        DomainError: As `load_stage`; of a stage before, the sentence says so.
    """
    stage = load_stage(folder, options)
    if stage.configuration.previous_stage is None or not (folder / PREVIOUS_FOLDER).is_dir():
        return stage
    try:
        before = load_model(folder / PREVIOUS_FOLDER, options.model_copy(update={"folds": None}))
    except DomainError as error:
        message = f"{PREVIOUS_FOLDER}, the stage before: {error.message}"
        raise type(error)(message, **error.context) from error
    return with_previous(stage, before)


def with_previous(model: LoadedModel, previous: LoadedModel) -> LoadedModel:
    """Let a later stage of a cascade refine what a model segments.

    Raises:
        ModelError: It is no later stage, or of another one, or of another dataset.
    """
    wanted = model.configuration.previous_stage
    if wanted is None:
        raise ModelError(
            f"configuration {model.configuration_name} is no later stage of a cascade; predict without a "
            "previous one"
        )
    if previous.configuration_name != wanted:
        raise ModelError(
            f"configuration {model.configuration_name} refines what {wanted} segments, but the previous model is "
            f"of {previous.configuration_name}; give that of {wanted}"
        )
    for name, own, other in (
        ("channels", model.description.channels, previous.description.channels),
        ("labels", model.labels.foreground, previous.labels.foreground),
    ):
        if own != other:
            raise ModelError(
                f"the previous model has other {name}, {_listed(other)} instead of {_listed(own)}; give the one that "
                f"{model.configuration_name} was trained with"
            )
    return replace(model, previous=previous)


def load_stage(folder: Path, options: PredictionOptions) -> LoadedModel:
    """Load a trained model without the stages of a cascade before it.

    Args:
        folder: As for `load_model`.
        options: Its folds, precision and device.

    Raises:
        ModelError: Something is missing or does not fit; the sentence names the file.
        DatasetError: dataset.json cannot be used.
        LabelsError: Its labels contradict each other.
        PlanError: plans.json cannot be used.
    """
    record = ModelRecord.parse(_read(folder, MODEL_FILE))
    plan = Plan.parse(_read(folder, "plans.json"))
    description = DatasetDescription.parse(_read(folder, "dataset.json"))
    configuration = plan.configuration(record.configuration)
    _require_sound(plan, record.configuration, description)
    _require_fit(record, configuration)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    labels = description.label_set()
    networks = {}
    for fold in choose_folds(folder, options.folds):
        channels = input_channels(configuration, labels)
        network = build_network(configuration.architecture, channels, len(labels.heads), seed=None)
        _load_weights(network, folder / fold_name(fold) / WEIGHTS_FILE)
        networks[fold] = _prepared(network, precision, device)
    return LoadedModel(
        description=description,
        plan=plan,
        configuration_name=record.configuration,
        configuration=configuration,
        labels=labels,
        mirror_axes=record.mirror_axes,
        networks=networks,
        precision=precision,
        device=device,
    )


def _read(folder: Path, name: str) -> bytes:
    """Read one of the model's files.

    Raises:
        ModelError: It is not there.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ModelError(
            f"the trained model has no readable {name}; train or import it again", file=name
        ) from error


def _require_sound(plan: Plan, name: ConfigurationName, description: DatasetDescription) -> None:
    """Refuse a plan that was edited or damaged, as far as prediction depends on it.

    Raises:
        PlanError: Something contradicts something; every mistake is named.
    """
    found = configuration_mistakes(
        plan.configuration(name), plan.foreground_intensity_properties_per_channel, description.channels
    )
    within = [PlanMistake(f"configurations.{name}.{mistake.where}", mistake.message) for mistake in found]
    mistakes = [*transposition_mistakes(plan.transpose_forward, plan.transpose_backward), *within]
    if mistakes:
        raise plan_error(mistakes)


def _require_fit(record: ModelRecord, configuration: Configuration) -> None:
    """Refuse what this engine cannot apply, before weights are read.

    Raises:
        ModelError: It mirrors axes that its patch lacks.
    """
    dimensions = len(configuration.patch_size)
    if not set(record.mirror_axes) <= set(range(dimensions)):
        raise ModelError(
            f"{MODEL_FILE} mirrors axes {list(record.mirror_axes)}, "
            f"but the patch has only axes 0 to {dimensions - 1}"
        )


def choose_folds(folder: Path, wanted: Sequence[Fold] | None) -> tuple[Fold, ...]:
    """Return the folds to load: those asked for, or all numbered ones, or else the one of all cases.

    Raises:
        ModelError: There are none, or one that is asked for is missing; the sentence names those there are.

    Source:
        Engine specification B 6.1.
    """
    present = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{WEIGHTS_FILE}")]
    numbered: tuple[Fold, ...] = tuple(sorted(int(name) for name in present if name.isdecimal()))
    every = (*numbered, FOLD_ALL) if FOLD_ALL in present else numbered
    if not every:
        raise ModelError(f"the trained model has no fold with {WEIGHTS_FILE}; train or import one")
    if wanted is None:
        return numbered or every
    missing = [str(fold) for fold in wanted if fold not in every]
    if missing:
        raise ModelError(
            f"the trained model has no fold {', '.join(missing)}; it has {', '.join(map(str, every))}",
            folds=list(every),
        )
    return tuple(dict.fromkeys(wanted))


def _load_weights(network: Network, path: Path) -> None:
    """Put weights into a network.

    Raises:
        ModelError: The file is damaged, or its tensors are not those of the network.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{name} cannot be read: {error}; train or import it again") from error
    faults = differences(network.state_dict(), weights)
    if faults:
        raise ModelError(f"{name} does not fit the network in plans.json: {'; '.join(faults)}", file=name)
    network.load_state_dict(weights, assign=True)


def _prepared(network: Network, precision: Precision, device: torch.device) -> nn.Module:
    """Move a network to its device and format; norms keep float32, in which they take their statistics."""
    network.deep_supervision = False
    network.requires_grad_(requires_grad=False).eval().to(device)
    if not isinstance(network, UNet):
        return InFormat(network, precision.name, device)
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 - the base of all convolutions
            module.to(precision.dtype)
    return network


def tile_network(
    network: nn.Module, precision: Precision, device: torch.device, previous_labels: Sequence[int] = ()
) -> TileNetwork:
    """Return the network as the sliding window calls it: any tiles in, logits on the network's device out.

    Args:
        network: Without deep supervision.
        precision: Its number format.
        device: Where it is.
        previous_labels: In a cascade, the labels that get a channel each. The tiles' last channel is what the
            previous stage segmented: a channel per label of a whole image could be many times its size.
    """

    def run(tiles: Tensor) -> Tensor:
        moved = tiles.to(device)
        if previous_labels:
            moved = with_labels_apart(moved, previous_labels)
        logits = network(moved.to(precision.dtype))
        if not isinstance(logits, Tensor):
            raise TypeError("a network for prediction must be built without deep supervision")
        return logits

    return run


def _listed(values: Sequence[str | int]) -> str:
    """Put names or numbers into a sentence."""
    return ", ".join(map(str, values)) or "none"
