"""What a training begins with beside dataset and plan: splits of its own, patients, weights."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.base import transaction
from app.db.models import DatasetCase, StoredObject, TrainedModel
from app.errors import RequestError
from app.payloads import Beginning, ObjectRef, Pretrained
from app.requests import CROSS_VALIDATION_FOLDS, PretrainedChoice, SplitChoice, TrainingRequest
from app.services import datasets, models, networks
from app.services.grouping import patients_found
from app.services.resources import Resources
from core.domain.ensemble import MEMBERS_FOLDER
from core.domain.model import WEIGHTS_FILE, fold_name
from core.domain.problems import some
from core.domain.splits import Patients, grouped_cross_validation
from core.domain.training import Fold
from core.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request brings along, looked through; its files are in the store, and no row names them yet."""

    beginning: Beginning
    refs: tuple[ObjectRef, ...] = ()


def prepare(resources: Resources, request: TrainingRequest) -> Prepared:
    """Check what a training is to begin with, and keep it as files.

    Raises:
        NotFoundError: There is no such dataset or model.
        ConflictError: The dataset is not ready.
        RequestError: Splits or patients do not fit the dataset, or the model has no such fold.
    """
    if request.splits is None and request.group_by is None and request.pretrained is None:
        return Prepared(Beginning())
    with transaction(resources.readers) as session:
        cases = _cases(session, request.dataset_id)
        weights = None if request.pretrained is None else _weights(session, request.pretrained)
    splits = patients = None
    if request.splits is not None:
        require_fitting(request.splits, cases)
        splits = _stored(resources, [one.to_json() for one in request.splits])
    if request.group_by is not None:
        found = patients_found(request.group_by, cases)
        _require_patients(found)
        patients = _stored(resources, found)
    refs = tuple(ref for ref in (splits, patients) if ref is not None)
    return Prepared(Beginning(splits=splits, patients=patients, pretrained=weights), refs)


def name_files(session: Session, prepared: Prepared) -> None:
    """Write the rows of the files that a training brings along, and hold the model that it begins with.

    Raises:
        NotFoundError: That model was deleted in the meantime.
    """
    if prepared.beginning.pretrained is not None:
        models.hold_ready(session, prepared.beginning.pretrained.model_id)
    session.add_all(
        StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes) for ref in prepared.refs
    )
    session.flush()


def require_fitting(splits: Sequence[SplitChoice], cases: Sequence[str]) -> None:
    """Refuse splits that name other cases than there are, or train on what they validate on.

    Raises:
        RequestError: They do; the sentence names the cases.
    """
    known = set(cases)
    for fold, split in enumerate(splits):
        unknown = sorted({*split.train, *split.val} - known)
        if unknown:
            raise RequestError(
                f"splits.{fold} names cases that the dataset does not have: {some(unknown)}; "
                f"it has: {some(sorted(known))}",
                fold=fold,
                cases=list(unknown),
            )
        both = sorted(set(split.train) & set(split.val))
        if both:
            raise RequestError(
                f"splits.{fold} trains on {some(both)} and validates on the same; name each case once per split, "
                'or send "folds": ["all"] to train on every case',
                fold=fold,
                cases=list(both),
            )


def _cases(session: Session, dataset_id: UUID) -> list[str]:
    """Return the case identifiers of a dataset that is ready."""
    datasets.find_ready(session, dataset_id)
    query = select(DatasetCase.case_id).where(DatasetCase.dataset_id == dataset_id)
    return list(session.scalars(query.order_by(DatasetCase.case_id)))


def _weights(session: Session, wanted: PretrainedChoice) -> Pretrained:
    """Return the weights of a model's fold.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is being imported, or could not be.
        RequestError: It has no such fold or member.
    """
    model = models.find_ready(session, wanted.model_id)
    folds = _folds_of_member(model, wanted.member)
    fold = folds[0] if wanted.fold is None else wanted.fold
    if fold not in folds:
        raise RequestError(
            f"pretrained: the model {model.name} has no fold {fold}; it has: {', '.join(map(str, folds))}",
            model_id=str(model.id),
            folds=list(folds),
        )
    top = "" if wanted.member is None else f"{MEMBERS_FOLDER}/{wanted.member}/"
    ref = ObjectRef.model_validate(model.files[f"{top}{fold_name(fold)}/{WEIGHTS_FILE}"])
    return Pretrained(model_id=model.id, fold=fold, weights=ref)


def _folds_of_member(model: TrainedModel, wanted: str | None) -> Sequence[Fold]:
    """Return the folds of the network that is meant: the model's own, or that of a member.

    Raises:
        RequestError: The model is an ensemble and no member of it is named, or it has no such member.
    """
    members = networks.folds_by_member(model)
    if wanted in members:
        return members[wanted]
    names = [name for name in members if name is not None]
    what = (
        f"is an ensemble; choose whose weights to take with member: {', '.join(names)}"
        if names
        else f"is no ensemble and has no member {wanted}; leave member out"
    )
    raise RequestError(f"pretrained: the model {model.name} {what}", model_id=str(model.id), members=[*names])


def _require_patients(patients: Patients) -> None:
    """Refuse fewer patients than the cross-validation has folds.

    Raises:
        RequestError: There are fewer.
    """
    try:
        grouped_cross_validation(patients, CROSS_VALIDATION_FOLDS)
    except TrainingError as error:
        raise RequestError(f"group_by: {error.message}", **error.context) from error


def _stored(resources: Resources, content: object) -> ObjectRef:
    """Keep JSON as an object that no row names yet."""
    text = json.dumps(content).encode()
    with ExitStack() as stack:
        incoming = resources.store.receive(len(text))
        stack.callback(incoming.discard)
        incoming.write(text)
        return resources.store.adopt(f"trainings/{uuid4()}.json", incoming)
