"""Which trained models a folder from elsewhere holds, and which of them is wanted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.domain.ensemble import ENSEMBLE_FILE
from core.domain.exchange import INFORMATION_FILE, CheckpointChoice, InferenceInformation
from core.domain.model import MODEL_FILE
from core.domain.names import NAME_SEPARATOR
from core.domain.plan import Plan
from core.domain.training import Fold
from core.errors import ModelError
from core.exchange.model_files import read_file
from core.network.official import read_official_checkpoint

MOST_LEVELS: Final = 4
"""Of folders that are looked through: an archive's own, the results', the dataset's, the model's."""

MOST_FOLDERS: Final = 10_000
"""That are looked into."""

NO_MODELS: Final = ("fold_", "crossval_results", "predicted_next_stage", "preprocessed", "ensembles")
"""What folders are called in which no model lies."""

ENSEMBLE_START, ENSEMBLE_SEPARATOR = "ensemble", "___"
"""Of the names of ensembles' folders; Engine specification B 0.3."""


@dataclass(frozen=True, slots=True)
class OfficialFolder:
    """A model of the official tools."""

    path: Path
    configuration: str
    checkpoints: dict[Fold, Path]
    """By fold: numbered ones in order, then that of all cases."""

    @property
    def name(self) -> str:
        """The folder's name: trainer, plans and configuration."""
        return self.path.name


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models are to be imported: one, or the members of an ensemble."""

    models: tuple[OfficialFolder, ...]
    postprocessing: Path | None
    """Folder that may hold the one that belongs to them."""
    before: dict[str, OfficialFolder]
    """By a cascade's later stage: what may be the stage before, of the same trainer and plans."""
    note: str | None = None


def own_model(root: Path) -> Path | None:
    """Return the folder of a model of ours: the one given, or a single one within it; None where there is none."""
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = [one for one in places if (one / MODEL_FILE).is_file() or (one / ENSEMBLE_FILE).is_file()]
    return found[0] if found and (found[0] == root or len(found) == 1) else None


def official_models(root: Path, checkpoint: CheckpointChoice) -> list[OfficialFolder]:
    """Find the models of the official tools in a folder: one itself, a dataset's, or a folder of results.

    Raises:
        ModelError: There is none with such a checkpoint; or the folder is not what it says.
    """
    found = []
    for folder in _folders(root, MOST_LEVELS):
        if not ((folder / "plans.json").is_file() and (folder / "dataset.json").is_file()):
            continue
        checkpoints = _checkpoints(folder, f"checkpoint_{checkpoint}.pth")
        if checkpoints:
            found.append(OfficialFolder(folder, _configuration(folder, checkpoints), checkpoints))
    if not found:
        other = "best" if checkpoint == "final" else "final"
        raise ModelError(
            f"{root.name} holds no trained model: no folder with plans.json, dataset.json and "
            f"fold_0/checkpoint_{checkpoint}.pth (another fold will do); give an export of nnU-Net v2 or of this "
            f"software, or choose the checkpoint {other} if there are only such"
        )
    return found


def _folders(root: Path, levels: int) -> Iterator[Path]:
    """Yield a folder and those in it, in the order of their names."""
    yield root
    waiting = [(root, levels)]
    seen = 0
    while waiting:
        folder, left = waiting.pop(0)
        with os.scandir(folder) as entries:
            names = sorted(one.name for one in entries if one.is_dir() and not one.name.startswith(NO_MODELS))
        for name in names:
            seen += 1
            if seen > MOST_FOLDERS:
                raise ModelError(f"{root.name} holds too many folders; give the one of the model")
            yield folder / name
            if left > 1:
                waiting.append((folder / name, left - 1))


def _checkpoints(folder: Path, file: str) -> dict[Fold, Path]:
    """Return the checkpoint of each fold that has one."""
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{file}")]
    numbered: list[Fold] = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
    every = [*numbered, "all"] if "all" in names else numbered
    return {fold: folder / f"fold_{fold}" / file for fold in every}


def _configuration(folder: Path, checkpoints: dict[Fold, Path]) -> str:
    """Return which configuration a model is of: its folder says so, or else its first checkpoint."""
    parts = folder.name.split(NAME_SEPARATOR)
    if len(parts) == len(("trainer", "plans", "configuration")):
        return parts[-1]
    first = next(iter(checkpoints.values()))
    configuration = read_official_checkpoint(first).configuration
    if configuration is None:
        raise ModelError(
            f"{folder.name} does not say which configuration it is of; name it as the official tools do, such as "
            "nnUNetTrainer__nnUNetPlans__3d_fullres"
        )
    return configuration


def choose(models: Sequence[OfficialFolder], wanted: str | None) -> Choice:
    """Choose among the models of a folder.

    Args:
        models: At least one.
        wanted: A configuration, or the name of a folder; None for the only one, or what the official tools found to
            be the best.

    Raises:
        ModelError: There is none of that name, or more than one to choose from.
    """
    if wanted is not None:
        found = [one for one in models if one.name == wanted]
        found = found or [one for one in models if one.configuration == wanted]
        if len(found) != 1:
            there = "there is none" if not found else f"there are {_listed(found)}"
            raise ModelError(f"of {wanted}, {there}; choose one of the models there are: {_listed(models)}")
        return _single(found[0], models)
    if len(models) == 1:
        return _single(models[0], models)
    information = {one.path.parent / INFORMATION_FILE for one in models}
    present = [path for path in information if path.is_file()]
    if len(information) != 1 or not present:
        raise ModelError(
            f"there are {len(models)} models: {_listed(models)}; choose one with --configuration, by its "
            "configuration or its whole name"
        )
    return _best(models, InferenceInformation.parse(read_file(present[0])), present[0].parent)


def _best(models: Sequence[OfficialFolder], information: InferenceInformation, dataset: Path) -> Choice:
    """Choose what the official tools found to be the best, a model or an ensemble."""
    by_name = {one.name: one for one in models}
    names = [one.folder for one in information.best_model_or_ensemble.selected_model_or_models]
    missing = [name for name in dict.fromkeys(names) if name not in by_name]
    if missing:
        raise ModelError(
            f"{INFORMATION_FILE} chose {' and '.join(names)}, of which {missing[0]} is not there; choose another one "
            f"with --configuration: {_listed(models)}"
        )
    chosen = tuple(by_name[name] for name in dict.fromkeys(names))
    note = f"chosen by {INFORMATION_FILE}: {' and '.join(one.name for one in chosen)}"
    if len(chosen) == 1:
        single = _single(chosen[0], models)
        return Choice(single.models, single.postprocessing, single.before, note)
    known = set(by_name)
    ensembles = [
        folder
        for folder in sorted((dataset / "ensembles").glob(f"{ENSEMBLE_START}{ENSEMBLE_SEPARATOR}*"))
        if set(folder.name.split(ENSEMBLE_SEPARATOR)[1:]) & known == {one.name for one in chosen}
    ]
    return Choice(chosen, ensembles[0] if len(ensembles) == 1 else None, _before(chosen, models), note)


def _single(model: OfficialFolder, models: Sequence[OfficialFolder]) -> Choice:
    """Choose one model, with the postprocessing that was found for it."""
    found = sorted(path for path in model.path.glob("crossval_results_folds_*") if path.is_dir())
    before = _before((model,), models)
    return Choice((model,), found[0] if len(found) == 1 else None, before)


def _before(chosen: Sequence[OfficialFolder], models: Sequence[OfficialFolder]) -> dict[str, OfficialFolder]:
    """Return, by the name of a cascade's later stage, the stage before of the same trainer and plans."""
    by_path, found = {one.path: one for one in models}, dict[str, OfficialFolder]()
    for model in chosen:
        plan = Plan.parse(read_file(model.path / "plans.json"))
        previous = plan.configuration(model.configuration).previous_stage
        name = NAME_SEPARATOR.join((model.name.rpartition(NAME_SEPARATOR)[0], previous or ""))
        earlier = by_path.get(model.path.with_name(name))
        if earlier is not None:
            found[model.name] = earlier
    return found


def _listed(models: Sequence[OfficialFolder]) -> str:
    """Put the names of models into a sentence."""
    return ", ".join(one.name for one in models)
