"""A model of ours as the files of an archive, as the official tools lay out their results."""

import base64
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.exchange import INFORMATION_FILE, ORIGIN_FILE, ModelOrigin
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import (
    FOLD_FILE,
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    FoldRecord,
    ModelRecord,
    fold_name,
)
from core.domain.postprocessing import KEEP_LARGEST, POSTPROCESSING_FILE, Postprocessing
from core.domain.progress import Observer, Progress
from core.domain.stages import input_channels
from core.domain.training import Fold
from core.errors import CancelledError, ModelError
from core.exchange.fit import own_weights
from core.exchange.layout import ENSEMBLE_SEPARATOR, ENSEMBLE_START
from core.exchange.model_files import (
    Described,
    read_described,
    read_file,
    read_postprocessing,
)
from core.exchange.official_plans import (
    official_dataset_name,
    official_description,
    official_model_name,
    official_plans,
    official_plans_name,
    official_trainer,
)
from core.exchange.own_model import File, own_folds, read_fitting
from core.network.official_postprocessing import KEEPING_LARGEST, PICKLED_POSTPROCESSING
from core.network.official_saving import CheckpointFacts, save_official_checkpoint
from core.network.unet import build_network

CHECKPOINT: Final = "checkpoint_final.pth"

NO_PICTURE: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAGFVlwAAAAABJRU5ErkJggg=="
)
"""A picture of one white pixel, where there is no progress.png; the official export insists on one."""

NO_SUMMARY: Final[dict[str, Any]] = {"foreground_mean": {}, "mean": {}, "metric_per_case": []}
"""In place of the scores of the validation cases, which stay here with the names of the cases."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A model that is exported."""

    folder: Path
    described: Described
    mirror_axes: tuple[int, ...]
    folds: tuple[Fold, ...]

    @property
    def name(self) -> str:
        """Of its folder in the archive."""
        return official_model_name(self.described, self.mirror_axes)


def official_files(folder: Path, scratch: Path, observer: Observer) -> Iterator[File]:
    """Yield what the official tools need to predict with a model: of a cascade each stage, of an ensemble each member.

    Args:
        folder: Of a model or an ensemble of ours.
        scratch: An empty folder for a checkpoint at a time.
        observer: Told after each fold, and asked whether to stop.

    Raises:
        DomainError: The model cannot be used, or the official tools could not use it.
        CancelledError: The observer asked to stop.
    """
    members = _members(folder)
    stages = {stage.name: stage for member in members for stage in _stages(member)}
    if len({member.name for member in members}) != len(members):
        raise ModelError(
            "two members would have the same name for the official tools; give their plans other names"
        )
    dataset = official_dataset_name(members[0].described.plan.dataset_name)
    total, done = sum(len(stage.folds) for stage in stages.values()), 0
    for stage in stages.values():
        plans, description = official_plans(stage.described), official_description(stage.described)
        plans["dataset_name"] = dataset
        top = f"{dataset}/{stage.name}"
        yield f"{top}/plans.json", _json(plans)
        yield f"{top}/dataset.json", _json(description)
        if (stage.folder / FINGERPRINT_FILE).is_file():
            yield f"{top}/{FINGERPRINT_FILE}", read_file(stage.folder / FINGERPRINT_FILE)
        for fold in stage.folds:
            observer.report(Progress(stage="export", done=done, total=total, note=f"{stage.name} {fold}"))
            if observer.stop_requested():
                raise CancelledError("the export stopped")
            yield from _fold_files(stage, fold, top, (plans, description), scratch)
            done += 1
    observer.report(Progress(stage="export", done=done, total=total))
    yield from _decisions(folder, members, dataset)


def _members(folder: Path) -> list[_Member]:
    """Return the models of a folder: one, or those of an ensemble."""
    if not (folder / ENSEMBLE_FILE).is_file():
        return [_member(folder)]
    record = EnsembleRecord.parse(read_file(folder / ENSEMBLE_FILE))
    return [_member(folder / MEMBERS_FOLDER / name) for name in record.members]


def _member(folder: Path) -> _Member:
    """Read what a model says of itself."""
    record = ModelRecord.parse(read_file(folder / MODEL_FILE))
    described = read_described(folder, record.configuration)
    return _Member(folder, described, record.mirror_axes, own_folds(folder, WEIGHTS_FILE))


def _stages(member: _Member) -> Iterator[_Member]:
    """Yield a model, after the stages of a cascade before it."""
    before = member.folder / PREVIOUS_FOLDER
    if member.described.configuration.previous_stage is not None and before.is_dir():
        yield from _stages(_member(before))
    yield member


def _fold_files(
    stage: _Member, fold: Fold, top: str, records: tuple[dict[str, Any], dict[str, Any]], scratch: Path
) -> Iterator[File]:
    """Yield the files of one fold."""
    described, plans_and_description = stage.described, records
    file = Path(fold_name(fold)) / WEIGHTS_FILE
    weights = own_weights(read_fitting(stage.folder, file, described), str(file))
    channels = input_channels(described.configuration, described.labels)
    network = build_network(
        described.configuration.architecture, channels, len(described.labels.heads), seed=None
    )
    facts = CheckpointFacts(
        plans=plans_and_description[0],
        configuration=described.name,
        fold=fold,
        dataset_json=plans_and_description[1],
        trainer=official_trainer(stage.mirror_axes),
        mirror_axes=stage.mirror_axes,
        epochs=_epochs(stage.folder, fold),
    )
    save_official_checkpoint(
        {name: weights[name] for name in network.state_dict()}, facts, scratch / CHECKPOINT
    )
    within = f"{top}/{fold_name(fold)}"
    yield f"{within}/{CHECKPOINT}", scratch / CHECKPOINT
    (scratch / CHECKPOINT).unlink()
    picture = stage.folder / fold_name(fold) / "progress.png"
    yield f"{within}/progress.png", read_file(picture) if picture.is_file() else NO_PICTURE
    yield f"{within}/validation/summary.json", _json(NO_SUMMARY)


def _epochs(folder: Path, fold: Fold) -> int:
    """Return how many epochs a fold was trained, as far as anybody wrote it down."""
    own, origin = folder / fold_name(fold) / FOLD_FILE, folder / ORIGIN_FILE
    if own.is_file():
        record = FoldRecord.model_validate_json(read_file(own))
        return record.settings.epochs if record.epochs is None else record.epochs
    if origin.is_file():
        return ModelOrigin.model_validate_json(read_file(origin)).epochs.get(str(fold)) or 0
    return 0


def _decisions(folder: Path, members: Sequence[_Member], dataset: str) -> Iterator[File]:
    """Yield what was decided of the whole: postprocessing, and which of several models make the result.

    Source:
        Engine specification A 1.13, B 0.3.
    """
    names, first = [member.name for member in members], members[0]
    folds = "_".join(map(str, first.folds))
    if len(members) == 1:
        within = f"{dataset}/{names[0]}/crossval_results_folds_{folds}"
    else:
        within = f"{dataset}/ensembles/{ENSEMBLE_SEPARATOR.join((ENSEMBLE_START, *names, folds))}"
    is_alone = len(members) == len(list(_stages(first))) == 1
    if not is_alone:  # Which of the models make the result must be said.
        yield f"{dataset}/{INFORMATION_FILE}", _json(_information(members, dataset, within))
    found = read_postprocessing(folder, first.described.labels)
    if found is not None or not is_alone:
        steps = Postprocessing() if found is None else found
        arguments = [{"labels_or_regions": list(group)} for group in steps.keep_largest]
        yield (
            f"{within}/{POSTPROCESSING_FILE}",
            _json(
                {
                    "input_folder": {},
                    "postprocessed": {},
                    "postprocessing_fns": [KEEP_LARGEST] * len(arguments),
                    "postprocessing_kwargs": arguments,
                }
            ),
        )
        yield f"{within}/{PICKLED_POSTPROCESSING}", pickled_postprocessing(arguments)


def _information(members: Sequence[_Member], dataset: str, within: str) -> dict[str, Any]:
    """Say which models make the result, as the official tools do."""
    selected = [
        {
            "configuration": member.described.name,
            "trainer": official_trainer(member.mirror_axes),
            "plans_identifier": official_plans_name(member.described.plan.plans_name),
        }
        for member in members
    ]
    considered = [
        {"plans": one["plans_identifier"], "configuration": one["configuration"], "trainer": one["trainer"]}
        for one in selected
    ]
    return {
        "all_results": {},
        "best_model_or_ensemble": {
            "postprocessing_file": f"{within}/{PICKLED_POSTPROCESSING}",
            "result_on_crossval_post_pp": None,
            "result_on_crossval_pre_pp": None,
            "selected_model_or_models": selected,
            "some_plans_file": f"{dataset}/{members[0].name}/plans.json",
        },
        "considered_models": considered,
        "dataset_name_or_id": dataset,
        "ensembling_allowed": len(members) > 1,
        "folds": list(members[0].folds),
    }


def pickled_postprocessing(arguments: Sequence[dict[str, Any]]) -> bytes:
    """Write a pair of functions, by the one name that the official tools know, and of their arguments.

    The function is not at hand here, so the steps that name it are put before those of the arguments.

    Args:
        arguments: Keyword arguments, of a call each.
    """
    module, _, function = KEEPING_LARGEST.rpartition(".")
    named = b"c" + module.encode() + b"\n" + function.encode() + b"\n"
    protocol, empty_list, append, pair = b"\x80\x02", b"]", b"a", b"\x86"
    plain = pickle.dumps(list(arguments), protocol=2).removeprefix(protocol).removesuffix(b".")
    return protocol + empty_list + (named + append) * len(arguments) + plain + pair + b"."


def _json(value: dict[str, Any]) -> bytes:
    """Write JSON as the official tools do."""
    return (json.dumps(value, indent=4) + "\n").encode()
