"""What the folds of several models segmented in their validation cases, gathered: the same cases for all, each once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.model import MODEL_FILE, ModelRecord, fold_name
from core.domain.plan import ConfigurationName, Plan
from core.domain.training import Fold
from core.errors import DatasetError, ModelError
from core.evaluation.evaluate import FilePair
from core.pipeline.ensembling import listed

VALIDATION_FOLDER = "validation"
"""In the folder of a fold: what it segmented in its validation cases."""

REFERENCES_FOLDER = "gt_segmentations"
"""In a model's folder, or where the reference keeps preprocessed cases: label maps of the training cases."""


ODD_CHARACTERS = re.compile(r"^[^A-Za-z0-9]|[^A-Za-z0-9._-]")
"""That the name of an ensemble's member must not have."""


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """A trained model with what it segmented in its validation cases."""

    name: str
    folder: Path
    description: DatasetDescription
    plan: Plan
    configuration: ConfigurationName | None
    """None for a folder of the reference, which does not say."""
    folds: tuple[Fold, ...]
    """That have validation cases."""
    segmentations: Mapping[str, Path]
    """Of the compared folds, by case."""

    @property
    def reader(self) -> str:
        """Reads its segmentations."""
        return self.plan.image_reader_writer


@dataclass(frozen=True, slots=True)
class Crossval:
    """Models that can be compared."""

    models: tuple[ResultFolder, ...]
    folds: tuple[Fold, ...]
    references: Mapping[str, Path]
    """By case."""
    labels: LabelSet
    ending: str
    """Of label maps."""
    notes: tuple[str, ...] = ()

    def pairs(self, segmentations: Mapping[str, Path]) -> list[FilePair]:
        """Return segmentations with their references."""
        return [FilePair(segmentations[case], reference) for case, reference in self.references.items()]


def crossvalidations(
    folders: Sequence[Path], folds: Sequence[Fold] | None, references: Path | None
) -> Crossval:
    """Gather the validation cases of several models.

    Args:
        folders: Of trained models, ours or the reference's.
        folds: Whose; those of the models, which must be the same for all, if not given.
        references: Folder of reference label maps; looked for if not given.

    Raises:
        ModelError: A folder is no model, or models are of different datasets.
        DatasetError: Folds or cases differ, a case is in two folds, or references are missing.

    Source:
        Engine specification B 7.2 and 7.5.
    """
    models = _named([_model(folder) for folder in folders])
    _require_one_dataset(models)
    chosen = tuple(folds) if folds else _common_folds(models)
    models = [replace(model, segmentations=_segmentations(model, chosen)) for model in models]
    cases = _common_cases(models)
    ending = models[0].description.file_ending
    place = references or _found_references(models, [f"{case}{ending}" for case in cases])
    missing = [case for case in cases if not (place / f"{case}{ending}").is_file()]
    if missing:
        raise DatasetError(
            f"{place} has no reference of {listed(missing)}; name the folder of the dataset's label maps with --references"
        )
    return Crossval(
        models=tuple(models),
        folds=chosen,
        references={case: place / f"{case}{ending}" for case in cases},
        labels=models[0].description.label_set(),
        ending=ending,
    )


def _model(folder: Path) -> ResultFolder:
    """Read what a model's folder says of itself.

    Raises:
        ModelError: It is no model, or has validated nothing.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}")
    texts = {}
    for name in ("dataset.json", "plans.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is no folder of a trained model: it has no {name}")
        texts[name] = (folder / name).read_bytes()
    record = folder / MODEL_FILE
    return ResultFolder(
        name=ODD_CHARACTERS.sub("_", folder.resolve().name),
        folder=folder,
        description=DatasetDescription.parse(texts["dataset.json"]),
        plan=Plan.parse(texts["plans.json"]),
        configuration=ModelRecord.parse(record.read_bytes()).configuration if record.is_file() else None,
        folds=_validated_folds(folder),
        segmentations={},
    )


def _validated_folds(folder: Path) -> tuple[Fold, ...]:
    """Return the numbered folds that have validation cases.

    The fold that trained on all cases validated none that it had not seen.

    Raises:
        ModelError: There is none.
    """
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{VALIDATION_FOLDER}")]
    folds = sorted(int(name) for name in names if name.isdecimal())
    if not folds:
        raise ModelError(
            f"{folder} has no fold with validation cases, fold_0/{VALIDATION_FOLDER}; train the folds of a "
            "cross-validation first"
        )
    return tuple(folds)


def _named(models: Sequence[ResultFolder]) -> list[ResultFolder]:
    """Name models by their folders or, if two are called the same, by their configurations.

    Raises:
        ModelError: Both are the same for two of them.
    """
    if not models:
        raise ModelError("there is no model to choose from; name the folder of at least one")
    if len({model.name for model in models}) == len(models):
        return list(models)
    configurations = [model.configuration for model in models]
    if None in configurations or len(set(configurations)) < len(models):
        twice = sorted({model.name for model in models if [one.name for one in models].count(model.name) > 1})
        raise ModelError(
            f"several models are called {', '.join(twice)}; rename their folders, or name each once"
        )
    return [replace(model, name=str(model.configuration)) for model in models]


def _require_one_dataset(models: Sequence[ResultFolder]) -> None:
    """Refuse to compare models that tell different labels apart.

    Raises:
        ModelError: They do.
    """
    first = models[0].description
    for model in models[1:]:
        other = model.description
        if (other.labels, other.regions_class_order, other.file_ending) != (
            first.labels,
            first.regions_class_order,
            first.file_ending,
        ):
            raise ModelError(
                f"{model.folder} and {models[0].folder} are models of different datasets: their dataset.json differ in "
                "labels or file ending; compare models of one dataset"
            )


def _common_folds(models: Sequence[ResultFolder]) -> tuple[Fold, ...]:
    """Return the folds of the models.

    Raises:
        DatasetError: They differ.
    """
    common = [fold for fold in models[0].folds if all(fold in model.folds for model in models)]
    every = sorted({int(fold) for model in models for fold in model.folds})
    faults = [
        f"{model.folder} lacks validation cases of fold {', '.join(map(str, missing))}"
        for model in models
        if (missing := [fold for fold in every if fold not in model.folds])
    ]
    if faults:
        cure = f", or compare what all have with --folds {','.join(map(str, common))}" if common else ""
        raise DatasetError(f"{'; '.join(faults)}, which others have; train it{cure}")
    return tuple(common)


def _segmentations(model: ResultFolder, folds: Sequence[Fold]) -> dict[str, Path]:
    """Gather what some folds of a model segmented.

    Raises:
        DatasetError: A fold has no validation cases, or two have the same.
    """
    ending = model.description.file_ending
    found: dict[str, Path] = {}
    for fold in folds:
        folder = model.folder / fold_name(fold) / VALIDATION_FOLDER
        paths = [path for path in sorted(folder.glob(f"*{ending}")) if path.is_file()]
        if not paths:
            raise DatasetError(
                f"{model.folder} has no validation cases of fold {fold}; train that fold, or choose others with --folds"
            )
        for path in paths:
            case = path.name.removesuffix(ending)
            if case in found:
                raise DatasetError(
                    f"case {case} was validated by {found[case].parent.parent.name} and by {fold_name(fold)} of "
                    f"{model.folder}; in a cross-validation each case belongs to one fold: remove the one that is wrong",
                    case=case,
                )
            found[case] = path
    return found


def _common_cases(models: Sequence[ResultFolder]) -> list[str]:
    """Return the cases that all models validated.

    Raises:
        DatasetError: They differ.
    """
    every = sorted(set().union(*(model.segmentations for model in models)))
    faults = [
        f"{model.folder} did not validate {listed(missing)}"
        for model in models
        if (missing := [case for case in every if case not in model.segmentations])
    ]
    if faults:
        raise DatasetError(
            f"{'; '.join(faults)}, which others did; compare models that validated the same cases"
        )
    return every


def _found_references(models: Sequence[ResultFolder], names: Sequence[str]) -> Path:
    """Look for references: in a model's folder, or where the reference keeps them; the first place that has all.

    Where none has, the first that has some: what it lacks is named by the caller.

    Raises:
        DatasetError: They are in none of these places.

    Source:
        Engine specification B 7.5; A 1 for the folders of raw and preprocessed datasets.
    """
    places = [model.folder / REFERENCES_FOLDER for model in models]
    for model in models:
        dataset = model.folder.resolve().parent
        root = dataset.parent.parent
        places.append(root / "nnUNet_raw" / dataset.name / "labelsTr")
        places.append(root / "nnUNet_preprocessed" / dataset.name / REFERENCES_FOLDER)
    found = [place for place in places if place.is_dir()]
    for place in found:
        if all((place / name).is_file() for name in names):
            return place
    if found:
        return found[0]
    raise DatasetError(
        "what the segmentations are compared with is not known; name the folder of the dataset's label maps (labelsTr) "
        "with --references"
    )
