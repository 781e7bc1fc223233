"""Models in and out: an uploaded zip becomes a model, and a model becomes a zip."""

import json
import platform
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.payloads import ExportPayload, ExportResult, ImportPayload, ImportResult, WorkOrder
from app.requests import Name
from core import pipeline
from core.domain.dataset import DatasetDescription
from core.domain.exchange import ORIGIN_FILE, ExportFormat
from core.domain.model import WEIGHTS_FILE
from core.domain.plan import Plan
from core.domain.progress import Observer
from core.domain.record import write_json
from worker.archive import room_in_workspace
from worker.expected import expected_image
from worker.observer import Message, result_message
from worker.planning import PLANS_FILE
from worker.provenance import versions
from worker.workspace import Workspace

FORMATS: Mapping[str, ExportFormat] = {"official": "official", "native": "ours"}
"""What clients call a format, and what the engine does."""

UNNAMED = "imported"
"""What a model is called whose plan does not say for which dataset it was made."""

NAME: TypeAdapter[str] = TypeAdapter(Name)


def import_model(
    order: WorkOrder, payload: ImportPayload, workspace: Workspace, observer: Observer
) -> Message:
    """Make a model folder of an archive, and say where it came from.

    Raises:
        DomainError: The archive is refused; nothing that it names was run.
        StorageFullError: The disk is full, or would be.
    """
    folder = workspace.outbox(order) / "model"
    with room_in_workspace():
        summary = pipeline.import_model(
            workspace.store.path(payload.archive), folder, payload.options, observer
        )
        write_json(folder / "provenance.json", _provenance(payload, folder))
    networks = pipeline.networks_of(folder)
    first, configurations = next(iter(networks)), tuple(networks.values())
    plan = Plan.parse((first / PLANS_FILE).read_bytes())
    description = DatasetDescription.parse((first / "dataset.json").read_bytes())
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    result = ImportResult(
        files={},
        # Keys in the store are made of numbers: the names of members come from who made the archive.
        paths=tuple(file.relative_to(folder).as_posix() for file in files),
        name=_name_of(plan),
        configurations=configurations,
        folds=summary.folds,
        channels=description.channels,
        labels=dict(description.labels),
        notes=summary.notes,
        image=expected_image(plan, description, configurations[0]),
    )
    return result_message(result, {str(number): file for number, file in enumerate(files)})


def export_model(
    order: WorkOrder, payload: ExportPayload, workspace: Workspace, observer: Observer
) -> Message:
    """Write a zip of a model.

    Raises:
        DomainError: The official tools could not use it, or an object is missing.
        StorageFullError: The disk is full.
    """
    packed = workspace.outbox(order) / "model.zip"
    with room_in_workspace():
        folder = workspace.model(payload.model_files, observer)
        pipeline.export_model(folder, packed, FORMATS[payload.format], observer)
    return result_message(ExportResult(files={}), {packed.name: packed})


def _name_of(plan: Plan) -> str:
    """Return what a model is called that nobody named."""
    try:
        return NAME.validate_python(plan.dataset_name)
    except ValidationError:
        return UNNAMED


def _provenance(payload: ImportPayload, folder: Path) -> dict[str, Any]:
    """Say where a model comes from: what went in, by hash, what it says of itself, and what read it."""
    return {
        "version": 1,
        "archive_sha256": payload.archive.sha256,
        "plans_sha256": _hashes(folder, PLANS_FILE),
        "weights_sha256": {
            place.removesuffix(f"/{WEIGHTS_FILE}"): sha256
            for place, sha256 in _hashes(folder, WEIGHTS_FILE).items()
        },
        "origin": {
            str(file.parent.relative_to(folder)): json.loads(file.read_bytes())
            for file in sorted(folder.rglob(ORIGIN_FILE))
        },
        "versions": versions(),
        "machine": platform.machine(),
    }


def _hashes(folder: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of every file of a name below a folder, by its place there."""
    found = {}
    for file in sorted(folder.rglob(name)):
        with file.open("rb") as reader:
            found[file.relative_to(folder).as_posix()] = file_digest(reader, "sha256").hexdigest()
    return found
