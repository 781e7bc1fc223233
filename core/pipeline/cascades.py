"""What the stages of a cascade leave for each other in model folders: segmentations for the next, the model before."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from core.domain.dataset import CaseId
from core.domain.geometry import permuted
from core.domain.model import FOLD_FILE, MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, ModelRecord
from core.domain.plan import ConfigurationName
from core.domain.stages import next_stages
from core.domain.training import Fold
from core.errors import ImageError, ModelError, PlanError
from core.io.case_store import PARTIAL_PREFIX, PreprocessedCase, is_file_name
from core.io.next_stage import save_next_stage

if TYPE_CHECKING:
    from torch import Tensor

    from core.inference.model import LoadedModel

log = logging.getLogger(__name__)

NEXT_STAGE_FOLDER = "predicted_next_stage"
"""In a model's folder: per next configuration a folder with a file per case; Engine specification B 0.3."""


def next_stage_folder(model: Path, following: ConfigurationName) -> Path:
    """Return where a model keeps what it segmented for a later stage of a cascade.

    Raises:
        PlanError: The configuration's name cannot be that of a folder.
    """
    if not is_file_name(following):
        raise PlanError(f"configuration {following!r} must be named so that a folder can have the name")
    return model / NEXT_STAGE_FOLDER / following


def hand_on(
    model: "LoadedModel",
    case_id: CaseId,
    case: PreprocessedCase,
    logits_kzyx: "Tensor",
    *,
    fold: Fold,
    folder: Path,
) -> None:
    """Write what a fold segmented in a validation case for every later stage, on the grid of each.

    A case that cannot be brought to a later stage's grid is left out; training that stage says what is wrong
    with it.

    Args:
        model: Holds the fold.
        case_id: Of the case.
        case: As it was preprocessed for the model.
        logits_kzyx: On its grid.
        fold: That segmented it.
        folder: Of the model.

    Source:
        Engine specification B 1.13 (4).
    """
    from core.inference.cascade import next_stage_labels, next_stage_shape

    plan, properties = model.plan, case.properties
    spacing = permuted(properties.spacing, plan.transpose_forward)
    for name in next_stages(plan, model.configuration_name):
        try:
            shape = next_stage_shape(properties, plan, plan.configuration(name))
        except ImageError as error:
            log.warning(
                "not segmented for the next stage",
                extra={"case": case_id, "configuration": name, "reason": error.message},
            )
            continue
        labels_zyx = next_stage_labels(logits_kzyx, spacing, shape, model.configuration, model.labels)
        save_next_stage(next_stage_folder(folder, name), case_id, labels_zyx, fold)


def keep_previous(source: Path, model: Path, stage: ConfigurationName) -> None:
    """Keep the model of the stage before within that of a later stage, which then predicts by itself.

    Args:
        source: Folder of the model of the stage before.
        model: Folder of that of the later stage.
        stage: The configuration that the former must be of.

    Raises:
        ModelError: It is of another one, or no model.
    """
    if not (source / MODEL_FILE).is_file():
        raise ModelError(f"{source} is no model folder, it has no {MODEL_FILE}; name that of {stage}")
    found = ModelRecord.parse((source / MODEL_FILE).read_bytes()).configuration
    if found != stage:
        raise ModelError(f"{source} holds a model of {found}; name that of {stage}, the stage before")
    target = model / PREVIOUS_FOLDER
    wanted = {file.relative_to(source) for file in model_files(source)}
    for name in sorted(wanted):
        link_or_copy(source / name, target / name)
    for file in list(model_files(target)):
        if file.relative_to(target) not in wanted:
            file.unlink()


def model_files(folder: Path) -> Iterator[Path]:
    """Yield the files that predicting needs, those of earlier stages too, and what is known of each fold."""
    for name in (MODEL_FILE, "plans.json", "dataset.json"):
        if (folder / name).is_file():
            yield folder / name
    for name in (WEIGHTS_FILE, FOLD_FILE):
        yield from folder.glob(f"fold_*/{name}")
    if (folder / PREVIOUS_FOLDER).is_dir():
        yield from model_files(folder / PREVIOUS_FOLDER)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear elsewhere, whole, without a second copy where the disk allows it; none is ever changed.

    Of a symbolic link, what it points at.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f"{PARTIAL_PREFIX}{uuid4().hex}"
    try:
        try:
            os.link(source.resolve(), partial)
        except OSError:
            shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
