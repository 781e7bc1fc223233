"""What of a model's folder is the same for all its folds: written as the first begins, looked at by the others."""

from pathlib import Path

from core.domain.dataset import DatasetDescription
from core.domain.grounds import changed, grounds_of_model
from core.domain.model import MODEL_FILE, ModelRecord
from core.domain.plan import Plan
from core.domain.record import write_json
from core.errors import DomainError, TrainingError
from core.io.cases import DESCRIPTION_FILE

PLANS_FILE = "plans.json"

FILES = (MODEL_FILE, PLANS_FILE, DESCRIPTION_FILE)


def has_begun(model: Path) -> bool:
    """Return whether a fold of the model is trained, or was begun."""
    return any(model.glob("fold_*/*.safetensors"))


def require_same_model(model: Path, plan: Plan, record: ModelRecord, description: DatasetDescription) -> None:
    """Refuse a fold that the other folds of its model do not agree with: together they could not predict.

    Args:
        model: The folder; where no fold has begun, nothing is refused.
        plan: By which the fold is to be trained.
        record: What model.json is to say.
        description: Of the dataset.

    Raises:
        TrainingError: Plan, configuration, labels, channels or mirrored axes are not those of the folds that the
            folder holds; the sentence names what differs. Or its files cannot be read.
    """
    if not has_begun(model) or not all((model / name).is_file() for name in FILES):
        return
    theirs, their_plan, their_description = _read(model)
    own = record.configuration
    if own != theirs.configuration:
        raise TrainingError(
            f"{model.name} holds a model of {theirs.configuration}; train {own} into another model folder",
            configuration=own,
        )
    before = grounds_of_model(their_plan, own, their_description)
    differing = [*changed(before, grounds_of_model(plan, own, description))]
    if theirs.mirror_axes != record.mirror_axes:
        differing.append("the mirrored axes")
    if differing:
        raise TrainingError(
            f"{model.name} has folds that were trained otherwise, and together they could not predict "
            f"(different: {', '.join(differing)}); train with the {PLANS_FILE} and dataset of that folder, or into "
            "another model folder",
            entries=[*differing],
        )


def write_model(model: Path, plan: Plan, record: ModelRecord, description: DatasetDescription) -> None:
    """Write what of a model does not depend on the fold; every fold writes the same."""
    model.mkdir(parents=True, exist_ok=True)
    write_json(model / DESCRIPTION_FILE, description.to_json())
    write_json(model / PLANS_FILE, plan.to_json())
    write_json(model / MODEL_FILE, record.to_json())


def _read(model: Path) -> tuple[ModelRecord, Plan, DatasetDescription]:
    """Read what a model's folder says of it."""
    record, plan, description = ((model / name).read_bytes() for name in FILES)
    try:
        return ModelRecord.parse(record), Plan.parse(plan), DatasetDescription.parse(description)
    except DomainError as error:
        raise TrainingError(
            f"{model.name} has folds, but what it says of itself cannot be read: {error.message}; mend that, or train "
            "into another model folder"
        ) from error
