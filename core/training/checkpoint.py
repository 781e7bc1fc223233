"""The state of a training on disk: weights and momentum as safetensors, the rest as JSON; never pickled code."""

import json
import logging
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.domain.grounds import Grounds
from core.domain.model import CHECKPOINT_FILE, PrecisionName
from core.domain.pretraining import PretrainedRecord
from core.domain.record import Record, describe
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import TrainingError
from core.training.optimizer import named_state, restore_state
from core.training.step import TrainingState

log = logging.getLogger(__name__)

LATEST = CHECKPOINT_FILE
"""The state after the last finished epoch."""

PREVIOUS = "checkpoint_previous.safetensors"
"""The state one epoch earlier, for the case that the latest is damaged."""

VERSION = 3
"""Of the file that this code writes, and the newest that it reads."""

STATE_KEY = "state"
"""Where the JSON state stands in the file's header."""

NETWORK = "network."
"""Prefix of the names of weights; what the optimizer keeps has other ones."""


class CheckpointRecord(Record):
    """What of a training's state is no tensor."""

    version: Literal[1, 2, 3] = 3
    """1 knew neither other optimizers than SGD nor most settings, 2 no grounds; they are read as well."""
    settings: TrainingSettings
    precision: PrecisionName
    scaler: dict[str, int | float] | None
    """State of the gradient scaler, where there is one."""
    epochs: tuple[EpochRecord, ...]
    """All finished epochs; the next one is their number."""
    pretrained: PretrainedRecord | None = None
    """What the network began with, if not with drawn weights."""
    grounds: dict[str, str] = Field(default_factory=dict)
    """What it is trained from, a digest per entry; empty in older ones, which nobody compares."""
    checksum: int
    """CRC-32 over the tensors, ordered by name."""


class _DamagedError(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training's state after an epoch, in memory of its own, so that the training may go on."""

    tensors: Mapping[str, Tensor]
    settings: TrainingSettings
    precision: PrecisionName
    scaler: dict[str, int | float] | None
    epochs: tuple[EpochRecord, ...]
    pretrained: PretrainedRecord | None
    grounds: Grounds


def snapshot(state: TrainingState, settings: TrainingSettings) -> Snapshot:
    """Copy the state after an epoch; one with other settings does not go on from here."""
    return Snapshot(
        tensors=_tensors(state),
        settings=settings,
        precision=state.precision,
        scaler=None if state.scaler is None else state.scaler.state_dict(),
        epochs=tuple(state.epochs),
        pretrained=state.pretrained,
        grounds=state.grounds,
    )


def save(taken: Snapshot, folder: Path) -> None:
    """Write a state to a fold's folder; whatever happens meanwhile, a complete checkpoint is on disk."""
    record = CheckpointRecord(
        settings=taken.settings,
        precision=taken.precision,
        scaler=taken.scaler,
        epochs=taken.epochs,
        pretrained=taken.pretrained,
        grounds=dict(taken.grounds),
        checksum=_checksum(taken.tensors),
    )
    latest = folder / LATEST
    partial = _write(taken.tensors, latest, {STATE_KEY: record.model_dump_json()})
    if latest.exists():
        latest.replace(folder / PREVIOUS)
    partial.replace(latest)
    _flush(folder)


def save_weights(taken: Snapshot, path: Path) -> None:
    """Write the network's weights alone, float32 under canonical names, whole or not at all."""
    _write(_under(NETWORK, taken.tensors), path, {}).replace(path)
    _flush(path.parent)


def forget_previous(folder: Path) -> None:
    """Delete the checkpoint before the last; the last one stays."""
    (folder / PREVIOUS).unlink(missing_ok=True)


def _write(tensors: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> Path:
    """Write a file under a temporary name and return that.

    Raises:
        TrainingError: The disk is full, or the folder cannot be written to.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(dict(tensors), partial, header)
        _flush(partial)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):  # What is there of it would only take room.
            partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path.name} of {path.parent.name} cannot be written: {error}; free space, or check who may write "
            "there, and start the same training again: it goes on after the last epoch that was saved",
            file=path.name,
        ) from error
    return partial


def read(folder: Path) -> tuple[CheckpointRecord, dict[str, Tensor]] | None:
    """Read the latest checkpoint, or the one before if that is damaged.

    Returns:
        State and tensors; None where nothing was saved yet.

    Raises:
        TrainingError: Every checkpoint is damaged, or was written by a newer version.
    """
    found = _newest_whole(folder)
    return None if found is None else found[1]


def find(folder: Path) -> tuple[Path, int] | None:
    """Return the file of the latest whole checkpoint and how many epochs it holds; None where there is none.

    Raises:
        TrainingError: Every checkpoint is damaged, or was written by a newer version.
    """
    found = _newest_whole(folder)
    return None if found is None else (found[0], len(found[1][0].epochs))


def _newest_whole(folder: Path) -> tuple[Path, tuple[CheckpointRecord, dict[str, Tensor]]] | None:
    candidates = [path for path in (folder / LATEST, folder / PREVIOUS) if path.exists()]
    for path in candidates:
        try:
            return path, _read(path)
        except _DamagedError as damage:
            log.warning("checkpoint is damaged", extra={"file": path.name, "reason": str(damage)})
    if candidates:
        raise TrainingError(
            f"no checkpoint in {folder.name} can be read, so the training cannot go on; start it anew",
            files=[path.name for path in candidates],
        )
    return None


def restore(state: TrainingState, record: CheckpointRecord, tensors: Mapping[str, Tensor]) -> None:
    """Bring a fresh state to where a checkpoint stands.

    Raises:
        TrainingError: The checkpoint is that of another network.
    """
    own, found = state.network.state_dict(), _under(NETWORK, tensors)
    if {name: tensor.shape for name, tensor in own.items()} != {
        name: tensor.shape for name, tensor in found.items()
    }:
        raise TrainingError(
            "the checkpoint belongs to another network than the plan's; start the training anew"
        )
    state.network.load_state_dict(found)
    restore_state(state.optimizer, state.network, tensors)
    if state.scaler is not None and record.scaler is not None:
        state.scaler.load_state_dict(record.scaler)
    state.epochs[:] = record.epochs


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name begins so, without that."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """Return copies of all weights, and of what the optimizer keeps for them, by name."""
    weights = {NETWORK + name: tensor for name, tensor in state.network.state_dict().items()}
    kept = dict(named_state(state.optimizer, state.network))
    return {name: _copied(tensor) for name, tensor in (weights | kept).items()}


def _copied(tensor: Tensor) -> Tensor:
    """Return a tensor as it is written, in memory of its own."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of all tensors, ordered by name."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, value)
    return value


def _read(path: Path) -> tuple[CheckpointRecord, dict[str, Tensor]]:
    """Read and check one file.

    Raises:
        _DamagedError: It is not what was written.
        TrainingError: A newer version wrote it.
    """
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})[STATE_KEY])
            _require_known_version(values, path)
            record = CheckpointRecord.model_validate(values)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except ValidationError as error:
        raise _DamagedError(describe(error)) from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _DamagedError(str(error)) from error
    if _checksum(tensors) != record.checksum:
        raise _DamagedError("its tensors are not those that were written")
    return record, tensors


def _require_known_version(values: Mapping[str, Any], path: Path) -> None:
    """Refuse what a newer version of this software wrote."""
    version = values.get("version")
    if isinstance(version, int) and version > VERSION:
        raise TrainingError(
            f"{path.name} has version {version}, this software reads up to {VERSION}; update it"
        )


def _flush(path: Path) -> None:
    """Make sure that a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
