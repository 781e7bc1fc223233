"""Weights to begin with: found in a model of ours or an official one, and taken over where name and shape agree."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.domain.labels import LabelSet
from core.domain.model import WEIGHTS_FILE, fold_name
from core.domain.plan import Configuration
from core.domain.pretraining import PRETRAINED_FILE, PretrainedRecord, TensorLeft, WeightsSource
from core.domain.record import write_json
from core.domain.stages import input_channels
from core.domain.training import Fold
from core.errors import ModelError, TrainingError
from core.network.official import read_official_weights
from core.network.unet import build_network
from core.network.weights import ENCODER, canonical, canonical_name
from core.training.checkpoint import LATEST, NETWORK, CheckpointRecord

log = logging.getLogger(__name__)

FILES = (WEIGHTS_FILE, "checkpoint_final.pth", "checkpoint_best.pth", LATEST)
"""What a fold's weights are called, ours or official; the first that is there."""

HEADS = ".seg_layers."
"""Part of the names of heads."""

LEAST_SHARE = 0.5
"""Of the encoder's tensors that must fit."""


@dataclass(frozen=True, slots=True)
class StartWeights:
    """What a network begins with instead of drawn weights."""

    record: PretrainedRecord
    tensors: Mapping[str, Tensor]
    """Those that are taken, by their names in the network; on the CPU."""


def find_weights(path: Path, fold: Fold | None = None) -> Path:
    """Return the file of weights that a path stands for.

    Args:
        path: A model folder of ours or an official one, the folder of a fold, or a file of weights.
        fold: Of the model folder; None for its first.

    Raises:
        ModelError: There is no such fold, or no weights; the sentence says where they are looked for.
    """
    if path.is_file():
        if fold is not None:
            raise ModelError(
                f"{path.name} is one file of weights, of which no fold can be chosen; leave the fold out"
            )
        return path
    if not path.is_dir():
        raise ModelError(f"there is no {path} to take weights from; check the path")
    found = _folds(path)
    if fold is not None and str(fold) not in found:
        there = f"it has {', '.join(found)}" if found else "it has none"
        raise ModelError(f"{path.name} has no fold {fold} with weights; {there}")
    own = _weights_in(path)
    if own is not None and fold is None:
        return own
    if not found:
        raise ModelError(
            f"{path.name} holds no weights; give a model folder, which has folders such as fold_0 with a "
            f"{WEIGHTS_FILE} or checkpoint_final.pth, or such a file itself"
        )
    return found[str(fold)] if fold is not None else next(iter(found.values()))


def _folds(folder: Path) -> dict[str, Path]:
    """Return the weights of each fold: by number, then the one of all cases."""
    names = [path.name.removeprefix("fold_") for path in folder.glob("fold_*")]
    ordered = [*map(str, sorted(int(name) for name in names if name.isdecimal())), "all"]
    files = {name: _weights_in(folder / fold_name("all" if name == "all" else int(name))) for name in ordered}
    return {name: file for name, file in files.items() if file is not None}


def _weights_in(folder: Path) -> Path | None:
    """Return the weights in the folder of a fold."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def start_weights(
    path: Path, configuration: Configuration, labels: LabelSet, fold: Fold | None = None
) -> StartWeights:
    """Read weights, and take what fits a network that is about to be trained.

    A tensor fits if its name and shape are those of the network's. Heads are never taken: they belong to the
    labels, and even those of equal number may mean something else.

    Args:
        path: As for `find_weights`.
        configuration: That is to be trained.
        labels: Of the dataset that it is trained on.
        fold: As for `find_weights`.

    Raises:
        ModelError: There are no weights that can be read.
        TrainingError: They are those of a network that has hardly anything in common with this one.

    Source:
        Engine specification B 4.5.
    """
    file = find_weights(path, fold)
    name = Path(path.resolve().name, file.relative_to(path)).as_posix()
    source = read_weights(file)
    channels, heads = input_channels(configuration, labels), len(labels.heads)
    network = build_network(configuration.architecture, channels, heads, seed=None).state_dict()
    left = {
        own: reason for own, tensor in network.items() if (reason := _left(own, tensor, source)) is not None
    }
    _require_alike(network, left, name)
    taken = {own: source[canonical_name(own)] for own in network if own not in left}
    known = {canonical_name(own) for own in network}
    record = PretrainedRecord(
        source=WeightsSource(name=name, sha256=_sha256(file)),
        taken=tuple(taken),
        left=tuple(left.values()),
        unused=tuple(sorted(set(source) - known)),
    )
    log.info("begins with pretrained weights", extra={"source": name, "taken": len(taken), "left": len(left)})
    return StartWeights(record, {own: _own(tensor, network[own].dtype, own) for own, tensor in taken.items()})


def begin_with(
    network: nn.Module, initial: StartWeights | None, before: CheckpointRecord | None
) -> PretrainedRecord | None:
    """Give a network the weights that it begins with; one that goes on from a checkpoint has them behind it.

    Returns:
        Where its first weights are from; None where they were drawn.

    Raises:
        TrainingError: The training was begun with other weights.
    """
    if before is not None:
        _require_same_start(before.pretrained, initial)
        return before.pretrained
    if initial is None:
        return None
    network.load_state_dict(initial.tensors, strict=False)
    return initial.record


def _require_same_start(before: PretrainedRecord | None, initial: StartWeights | None) -> None:
    """Refuse to go on along another path than the one that was begun; the weights need not be named again.

    Raises:
        TrainingError: Other weights are given.
    """
    if initial is None or (before is not None and before.source.sha256 == initial.record.source.sha256):
        return
    origin = "drawn ones" if before is None else f"those of {before.source.name}"
    raise TrainingError(
        f"the training was begun with other weights, {origin}, and not with {initial.record.source.name}; go on "
        "without naming pretrained weights, or start anew in an empty folder"
    )


def keep_record(record: PretrainedRecord | None, folder: Path) -> None:
    """Write what was taken over beside the weights of a fold; nothing where all were drawn."""
    if record is None:
        (folder / PRETRAINED_FILE).unlink(missing_ok=True)
    else:
        write_json(folder / PRETRAINED_FILE, record.to_json())


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of weights, each once under its canonical name.

    Args:
        file: A weights.safetensors or a checkpoint of ours, or an official checkpoint.

    Raises:
        ModelError: It cannot be read.
    """
    if file.suffix != ".safetensors":
        return dict(read_official_weights(file))
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file.name} cannot be read: {error}; copy it again", file=file.name) from error
    state = {name.removeprefix(NETWORK): one for name, one in tensors.items() if name.startswith(NETWORK)}
    return canonical(state or tensors)


def _left(name: str, tensor: Tensor, source: Mapping[str, Tensor]) -> TensorLeft | None:
    """Say why a tensor of the network keeps its fresh values; None where it is taken."""
    shape, found = tuple(tensor.shape), source.get(canonical_name(name))
    source_shape = None if found is None else tuple(found.shape)
    if HEADS in name:
        return TensorLeft(name=name, reason="head", shape=shape, source_shape=source_shape)
    if source_shape is None:
        return TensorLeft(name=name, reason="missing", shape=shape)
    if source_shape != shape:
        return TensorLeft(name=name, reason="shape", shape=shape, source_shape=source_shape)
    return None


def _require_alike(network: Mapping[str, Tensor], left: Mapping[str, TensorLeft], source: str) -> None:
    """Refuse weights of another topology, of which next to nothing would be taken.

    Raises:
        TrainingError: Less than half of the encoder fits.
    """
    encoder = [name for name in network if name.startswith(ENCODER)]
    counted = encoder or [name for name in network if HEADS not in name]
    different = [left[name] for name in counted if name in left]
    if len(counted) - len(different) >= LEAST_SHARE * len(counted):
        return
    first = different[0]
    there = "missing" if first.source_shape is None else list(first.source_shape)
    raise TrainingError(
        f"only {len(counted) - len(different)} of {len(counted)} tensors of the encoder are as in {source}: it is "
        f"another network, such as {first.name}, {list(first.shape)} here and {there} there. Both must have one "
        "plan: move the pretrained model's to this dataset with move-plans and train by that, or move this dataset's "
        "to the pretraining dataset and train there anew",
        tensor=first.name,
    )


def _own(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return a tensor in memory of its own, as the network has it.

    Raises:
        ModelError: It holds what is no number, so that no training could begin with it.
    """
    copied = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not copied.isfinite().all():
        raise ModelError(
            f"the weights are not finite in {name}: that training diverged; take others", tensor=name
        )
    return copied


def _sha256(file: Path) -> str:
    """Return the digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
