"""Which folds of which configurations a training trains, and where each of them begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from app.db.models import Job
from app.jobs import JobKind, JobState
from app.payloads import Checkpoint, PlanResult, TrainPayload, TrainResult
from core.domain.model import CHECKPOINT_FILE
from core.domain.plan import ConfigurationName
from core.domain.training import Fold


@dataclass(frozen=True, slots=True)
class Stage:
    """A configuration that is trained, with its folds."""

    name: ConfigurationName
    previous: ConfigurationName | None
    """The stage whose segmentations it refines."""
    folds: tuple[Fold, ...]


def stages(result: PlanResult, folds: Sequence[Fold], numbered: int) -> list[Stage]:
    """Return what is to be trained, each stage of a cascade behind the one before.

    A stage that another one needs is trained although nobody asked for it, and on all folds of the
    cross-validation: together they segment every case that the later stage learns from.

    Args:
        result: What was planned, and what of it is to be trained.
        folds: That are asked for.
        numbered: How many folds the cross-validation has.

    Source:
        Engine specification B 4.4.
    """
    before = {one.name: one.previous_stage for one in result.planned}
    needed = {stage for name in result.configurations for stage in stages_before(before, name)}
    every: list[Fold] = [*folds]
    if "all" not in every:
        every += [fold for fold in range(numbered) if fold not in every]
    ordered: list[Stage] = []
    for name in result.configurations:
        for stage in (*reversed(stages_before(before, name)), name):
            if all(stage != known.name for known in ordered):
                own = tuple(every) if stage in needed else tuple(folds)
                ordered.append(Stage(stage, before.get(stage), own))
    return ordered


def stages_before(before: Mapping[str, str | None], name: str) -> list[str]:
    """Return the stages before one, the nearest first; a circle, which no plan may have, is cut."""
    found: list[str] = []
    stage = before.get(name)
    while stage is not None and stage not in found:
        found.append(stage)
        stage = before.get(stage)
    return found


def checkpoints_of(session: Session, training_id: UUID | None) -> dict[tuple[str, Fold], Checkpoint]:
    """Return where the folds of a training ended, those that kept it; nothing where there is no training."""
    if training_id is None:
        return {}
    query = select(Job).where(
        Job.training_id == training_id, Job.kind == JobKind.TRAIN, Job.state == JobState.SUCCEEDED
    )
    found = {}
    for job in session.scalars(query.options(undefer(Job.result))):
        result = TrainResult.model_validate(job.result)
        ref = result.files.get(CHECKPOINT_FILE)
        if ref is not None:
            epochs = result.epochs or TrainPayload.model_validate(job.payload).settings.epochs
            found[result.configuration, result.fold] = Checkpoint(file=ref, epochs=epochs)
    return found
