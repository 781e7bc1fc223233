"""Preprocessed cases on this machine: made once for all jobs that need the same, from what is there already."""

import hashlib
import json
from pathlib import Path

from app.payloads import ObjectRef, PreprocessPayload, TrainPayload
from core import pipeline
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer
from worker.raw import RAW_VERSION
from worker.workspace import Workspace


def preprocessed_here(
    payload: PreprocessPayload | TrainPayload,
    workspace: Workspace,
    observer: Observer,
    *,
    threads: int | None,
) -> tuple[Path, str]:
    """Return the folder of preprocessed cases, made now if this machine does not have it, and its digest.

    Cases that another folder on this machine has are taken from there: those that did not change since an
    earlier version of the dataset. What an interrupted job finished is not done again.

    Args:
        payload: Names dataset, plan and configuration.
        workspace: Where folders are.
        observer: Told of progress.
        threads: Cases worked on at the same time; None: one per core.

    Raises:
        DomainError: As `pipeline.preprocess`.
    """
    raw, plan = workspace.raw_dataset(payload.archive, observer), read_plan(workspace, payload.plans)
    recipe = pipeline.preprocessing_digest(plan, payload.configuration)
    digest = preprocessing_digest(payload.archive, plan, payload.configuration)
    folder = workspace.preprocessed(recipe, digest)

    def build(target: Path) -> None:
        pipeline.preprocess(
            raw,
            plan,
            payload.configuration,
            target,
            observer,
            workers=threads,
            other_stores=workspace.other_preprocessed(recipe, digest, observer),
        )

    workspace.hold(folder, build, observer, goes_on=True)
    return folder, digest


def preprocessing_digest(archive: ObjectRef, plan: Plan, name: ConfigurationName) -> str:
    """Hash all that the preprocessed arrays of a configuration depend on."""
    recipe = pipeline.preprocessing_digest(plan, name)
    content = json.dumps([archive.sha256, RAW_VERSION, recipe])
    return hashlib.sha256(content.encode()).hexdigest()


def read_plan(workspace: Workspace, ref: ObjectRef) -> Plan:
    """Read a plan from the store."""
    return Plan.parse(workspace.store.path(ref).read_text())
