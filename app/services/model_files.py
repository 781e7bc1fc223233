"""What the small files of a model say of it: its dataset, why it was chosen, its members, where it comes from."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.db.base import transaction
from app.db.models import Job, TrainedModel
from app.payloads import ObjectRef
from app.services import aliases, models
from app.services.resources import Resources
from app.storage import StoreError
from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.postprocessing import POSTPROCESSING_FILE
from core.domain.selection import SELECTION_FILE

DESCRIPTION_FILE = "dataset.json"

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True, slots=True)
class ModelContent:
    """A model with what stands in its small files; None where it has no such file."""

    model: TrainedModel
    aliases: tuple[str, ...]
    """Those that point at it."""
    job: Job | None
    """That imports it."""
    description: dict[str, Any] | None
    """dataset.json."""
    selection: dict[str, Any] | None
    """Why it was chosen: selection.json, or else what its training recorded."""
    members: tuple[str, ...]
    """Folders of an ensemble's models; none where it is a single one."""
    postprocessing: dict[str, Any] | None
    provenance: dict[str, Any] | None


def open_model(resources: Resources, model_id: UUID) -> ModelContent:
    """Return a model with what its files say.

    Raises:
        NotFoundError: There is no such model.
    """
    with transaction(resources.readers) as session:
        model = models.find(session, model_id)
        job = models.import_job(session, model)
        named = tuple(aliases.of_models(session, [model_id]).get(model_id, ()))
    try:
        return _content(resources, model, named, job)
    except (StoreError, FileNotFoundError):
        with transaction(resources.readers) as session:
            models.find(session, model_id)  # Another request may just have deleted it.
        raise


def _content(
    resources: Resources, model: TrainedModel, named: tuple[str, ...], job: Job | None
) -> ModelContent:
    ensemble = _read(resources, model, ENSEMBLE_FILE)
    members = () if ensemble is None else EnsembleRecord.model_validate(ensemble).members
    description = _read(resources, model, DESCRIPTION_FILE)
    if description is None and members:
        description = _read(resources, model, f"{MEMBERS_FOLDER}/{members[0]}/{DESCRIPTION_FILE}")
    return ModelContent(
        model,
        named,
        job,
        description=description,
        selection=_read(resources, model, SELECTION_FILE) or _recorded(model),
        members=members,
        postprocessing=_read(resources, model, POSTPROCESSING_FILE),
        provenance=_read(resources, model, PROVENANCE_FILE),
    )


def _recorded(model: TrainedModel) -> dict[str, Any] | None:
    """Return what is known of a choice of which no file tells."""
    if not model.reason:
        return None
    return {
        "configuration": model.configuration,
        "mean_dice": model.mean_dice,
        "reason": model.reason,
    }


def _read(resources: Resources, model: TrainedModel, name: str) -> dict[str, Any] | None:
    """Return one of our JSON files.

    Raises:
        StoreError, FileNotFoundError: It is lost, or was just deleted.
    """
    if name not in model.files:
        return None
    path = resources.store.path(ObjectRef.model_validate(model.files[name]))
    values: dict[str, Any] = json.loads(path.read_bytes())
    return values
