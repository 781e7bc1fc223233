"""One function per job kind: payload → workspace → verb of core → files and a result."""

import logging
from typing import TYPE_CHECKING

from app.payloads import (
    PROBABILITIES_FILE,
    UNCERTAINTY_FILE,
    CaseSummary,
    ClassSummary,
    ExportPayload,
    ImportPayload,
    IngestPayload,
    IngestResult,
    PlanPayload,
    PredictPayload,
    PredictResult,
    PreprocessPayload,
    PreprocessResult,
    SelectPayload,
    TrainPayload,
    WorkOrder,
)
from app.storage import StoreError
from core import pipeline
from core.domain.dataset import DatasetProblem
from core.domain.progress import Observer
from core.errors import ArchiveError, DatasetError
from worker.exchange import export_model, import_model
from worker.observer import Message, PipeObserver, result_message
from worker.planning import plan
from worker.preprocessed import preprocessed_here
from worker.provenance import versions, weights_of
from worker.raw import conversion_of
from worker.selection import select
from worker.training import Conditions, train
from worker.workspace import Workspace, case_object, is_readable, link_or_copy

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel

log = logging.getLogger(__name__)


def perform(
    order: WorkOrder, workspace: Workspace, observer: PipeObserver, conditions: Conditions
) -> Message:
    """Carry out any order but a prediction, which the warm predictor does.

    Args:
        order: Names the work.
        workspace: Where files are.
        observer: Told of progress.
        conditions: Of this machine.

    Raises:
        DomainError: The work cannot be done as it was ordered.
    """
    payload = order.payload
    match payload:
        case IngestPayload():
            message = result_message(ingest(payload, workspace, observer))
        case PlanPayload():
            message = plan(order, payload, workspace, observer)
        case PreprocessPayload():
            message = preprocess(order, payload, workspace, observer, threads=conditions.threads)
        case TrainPayload():
            message = train(order, payload, workspace, observer, conditions)
        case SelectPayload():
            message = select(order, payload, workspace, observer, workers=conditions.threads)
        case ImportPayload():
            message = import_model(order, payload, workspace, observer)
        case ExportPayload():
            message = export_model(order, payload, workspace, observer)
        case PredictPayload():
            raise TypeError("predictions belong to the predictor")
    return message


def ingest(payload: IngestPayload, workspace: Workspace, observer: Observer) -> IngestResult:
    """Unpack an archive and verify the dataset in it; what is wrong is a finding, not an error.

    Of a dataset that was converted, what could not be is found as well; the rest is verified all the same.
    """
    try:
        raw = workspace.raw_dataset(payload.archive, observer)
        found = pipeline.verify(raw, observer)
    except (ArchiveError, DatasetError) as error:
        problem = DatasetProblem(case=None, kind=error.kind, message=error.message)
        return IngestResult(description={}, reader=None, cases=(), problems=(problem,))
    conversion = conversion_of(raw)
    problems, notes = found.problems, found.notes
    if conversion is not None:
        problems = tuple(dict.fromkeys((*conversion.problems, *problems)))  # Both look at the labels.
        notes = (*conversion.notes, *notes)
    return IngestResult(
        description={} if found.description is None else found.description.to_json(),
        reader=found.reader,
        cases=tuple(CaseSummary(case=c.case_id, shape=c.shape, spacing=c.spacing) for c in found.cases),
        problems=problems,
        notes=notes,
        classes=tuple(ClassSummary.model_validate(one.to_json()) for one in found.classes),
    )


def preprocess(
    order: WorkOrder,
    payload: PreprocessPayload,
    workspace: Workspace,
    observer: Observer,
    *,
    threads: int | None,
) -> Message:
    """Preprocess every case, unless an earlier job did so with the same plan; the arrays go to the store."""
    if order.preprocessed is not None and _are_stored(workspace, order.preprocessed):
        return result_message(order.preprocessed)
    folder, digest = preprocessed_here(payload, workspace, observer, threads=threads)
    cases, outbox = pipeline.preprocessed_cases(folder), workspace.outbox(order)
    files = {case_object(number): outbox / case_object(number) for number in range(len(cases))}
    for file, handed_over in zip(cases.values(), files.values(), strict=True):
        link_or_copy(file, handed_over)  # Nobody holds the folder while the parent brings them to the store.
    return result_message(PreprocessResult(files={}, cases=tuple(cases), digest=digest), files)


def _are_stored(workspace: Workspace, result: PreprocessResult) -> bool:
    """Whether every case of an earlier job is still in the store, in the form of this release."""
    if not is_readable(result):
        return False
    try:
        for ref in result.files.values():
            workspace.store.path(ref)
    except StoreError as error:
        log.warning("arrays are missing in the store and are made again", extra={"reason": error.message})
        return False
    return True


def predict(
    order: WorkOrder,
    model: "TrainedModel",
    workspace: Workspace,
    observer: Observer,
    *,
    was_warm: bool,
) -> Message:
    """Segment one image with a loaded model."""
    payload = order.payload
    if not isinstance(payload, PredictPayload):
        raise TypeError(f"not a prediction: {payload.kind}")
    outbox = workspace.outbox(order)
    channels = []
    for number, ref in enumerate(payload.channels):
        channel = outbox / f"image_{number:04d}{payload.file_ending}"
        link_or_copy(workspace.store.path(ref), channel)
        channels.append(channel)
    choices = payload.choices
    targets = pipeline.PredictionFiles(
        outbox / f"segmentation{payload.file_ending}",
        preview=outbox / "preview.png",
        probabilities=outbox / PROBABILITIES_FILE if choices.probabilities else None,
        uncertainty=outbox / UNCERTAINTY_FILE if choices.uncertainty else None,
    )
    done = pipeline.predict_files(model, channels, targets, observer, choices.options)
    result = PredictResult(
        files={},
        volumes=done.volumes,
        timings=done.seconds,
        provenance={
            **done.provenance,
            "model_id": str(payload.model_id),
            "weights_sha256": weights_of(payload.model_files),
            "input_sha256": [ref.sha256 for ref in payload.channels],
            "warm": was_warm,
            "versions": versions(),
        },
    )
    return result_message(result, {file.name: file for file in targets.all})
