"""The best configuration or ensemble of a cross-validation: compared, postprocessed, and put together as a model."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from secrets import token_hex

from core.domain.labels import LabelSet
from core.domain.postprocessing import Postprocessing
from core.domain.progress import Observer
from core.domain.report import CaseScores, EvaluationReport
from core.domain.selection import Candidate, Selection
from core.domain.training import Fold
from core.errors import DatasetError
from core.evaluation.choice import best, compared_keys, mean_dice, reason
from core.evaluation.evaluate import FilePair, evaluate_files, score_files, summarize, write_summary
from core.evaluation.side_by_side import Errand, each_case
from core.pipeline.cascades import link_or_copy
from core.pipeline.crossval import Crossval, ResultFolder, crossvalidations
from core.pipeline.data import default_workers
from core.pipeline.determining import Determined, ScoredCases, determine
from core.pipeline.ensembling import PROBABILITIES, Merge, listed, merge_case, needed_bytes
from core.pipeline.putting_together import Chosen, put_together


@dataclass(frozen=True, slots=True)
class SelectOrder:
    """What is to be compared."""

    models: Sequence[Path]
    """Folders of trained models, ours or as the reference leaves them; the order breaks ties."""
    out: Path
    """Gets the best as a model; must not exist, or be empty."""
    references: Path | None = None
    """Folder of reference label maps; looked for where datasets usually keep them if not given."""
    folds: Sequence[Fold] | None = None
    """Whose validation cases are compared; those that every model has if not given."""
    ensembling: bool = True
    """Whether every two models are compared as an ensemble too."""
    segmentations: Path | None = None
    """Gets, per candidate, a folder of its segmentations of all cases with summary.json; none if not given."""
    workers: int | None = None
    """Cases at the same time; one per core if not given."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """A candidate, where its segmentations lie, and their scores."""

    members: tuple[ResultFolder, ...]
    segmentations: dict[str, Path]
    report: EvaluationReport

    def candidate(self, keys: Sequence[str]) -> Candidate:
        """Return its score on some labels or regions."""
        return Candidate(
            members=tuple(member.name for member in self.members), dice=mean_dice(self.report.mean, keys)
        )


def select(order: SelectOrder, observer: Observer) -> Selection:
    """Find which model or ensemble of two segments the validation cases best, and write it as one model.

    Returns:
        What was compared, and why the best was chosen; as in selection.json.

    Raises:
        DatasetError: Folds, cases, references or probabilities are missing, or `out` is taken.
        ModelError: A folder is no model, or models are of different datasets.
        ImageError: A file cannot be read, or shapes differ.
        CancelledError: The observer asked to stop; nothing is left in `out`.

    Source:
        Engine specification B 7.2 and 7.5 to 7.7.
    """
    require_new(order.out)
    crossval = crossvalidations(order.models, order.folds, order.references)
    with _workplace(order) as place:
        compared = _compare(crossval, order, observer, place)
        keys = compared_keys([one.report for one in compared])
        candidates = tuple(one.candidate(keys) for one in compared)
        chosen = best(candidates)
        winner = compared[chosen]
        determined = _postprocessing_of(winner, crossval, order, observer)
        selection = Selection(
            candidates=candidates,
            winner=candidates[chosen].members,
            folds=crossval.folds,
            cases=len(crossval.references),
            dice=candidates[chosen].dice,
            dice_postprocessed=mean_dice(determined.report.mean, keys),
            trials=determined.trials,
            reason=_reason(candidates, chosen, determined.postprocessing, len(crossval.references)),
            notes=_notes(crossval, winner.report, keys),
        )
        found = Chosen(winner.members, selection, determined.postprocessing, winner.report)
        return put_together(order.out, found, crossval)


def require_new(out: Path) -> None:
    """Refuse to mix a model with what is there.

    Raises:
        DatasetError: There is something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} is there already and not empty; name a new folder for the result")


@contextmanager
def _workplace(order: SelectOrder) -> Iterator[Path]:
    """Give room for the segmentations of ensembles; removed afterwards unless they are wanted."""
    place = order.segmentations or order.out.with_name(f".{order.out.name}.{token_hex(4)}.partial")
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        if order.segmentations is None:
            shutil.rmtree(place, ignore_errors=True)


def _compare(crossval: Crossval, order: SelectOrder, observer: Observer, place: Path) -> list[_Compared]:
    """Score every model, then every ensemble of two."""
    errand = Errand("evaluate", observer, order.workers or default_workers())
    compared = []
    for model in crossval.models:
        segmentations = dict(model.segmentations)
        report = evaluate_files(
            crossval.pairs(segmentations), crossval.labels, model.reader, observer, workers=errand.workers
        )
        compared.append(_Compared((model,), segmentations, report))
        if order.segmentations is not None:
            _keep(compared[-1], place)
    if order.ensembling and len(crossval.models) > 1:
        _require_probabilities(crossval)
        for members in combinations(crossval.models, 2):
            compared.append(_ensembled(members, crossval, errand, place))
            if order.segmentations is not None:
                write_summary(compared[-1].report, place / _folder_name(members))
    return compared


def _keep(one: _Compared, place: Path) -> None:
    """Gather the segmentations of a model from the folders of its folds."""
    folder = place / _folder_name(one.members)
    for path in one.segmentations.values():
        link_or_copy(path, folder / path.name)
    write_summary(one.report, folder)


def _folder_name(members: Sequence[ResultFolder]) -> str:
    """Name the folder of a candidate's segmentations; of an ensemble as the reference does."""
    names = [member.name for member in members]
    return names[0] if len(names) == 1 else f"ensemble___{'___'.join(names)}"


def _ensembled(
    members: tuple[ResultFolder, ...], crossval: Crossval, errand: Errand, place: Path
) -> _Compared:
    """Average the probabilities of models, case by case, and score what comes of it."""
    folder = place / _folder_name(members)
    folder.mkdir(parents=True, exist_ok=True)
    segmentations = {case: folder / f"{case}{crossval.ending}" for case in crossval.references}
    merges = [
        Merge(tuple(_probabilities(member, case) for member in members), target)
        for case, target in segmentations.items()
    ]
    work = partial(
        _merged_and_scored,
        references={target: crossval.references[case] for case, target in segmentations.items()},
        labels=crossval.labels,
        reader=members[0].reader,
    )
    scores = each_case(
        work,
        merges,
        Errand("ensemble", errand.observer, errand.workers),
        name=lambda merge: merge.target.name,
        needs=needed_bytes,
    )
    return _Compared(members, segmentations, summarize(scores))


def _merged_and_scored(
    merge: Merge, references: dict[Path, Path], labels: LabelSet, reader: str
) -> CaseScores:
    """Average the probabilities of a case, and score the segmentation."""
    merge_case(merge, labels, reader)
    return score_files(FilePair(merge.target, references[merge.target]), labels, reader)


def _probabilities(member: ResultFolder, case: str) -> Path:
    """Return where a model's probabilities of a case lie."""
    return member.segmentations[case].with_name(f"{case}{PROBABILITIES}")


def _require_probabilities(crossval: Crossval) -> None:
    """Refuse to leave ensembles out silently.

    Raises:
        DatasetError: Probabilities of some cases are missing.
    """
    faults = []
    for model in crossval.models:
        missing = [case for case in crossval.references if not _probabilities(model, case).is_file()]
        if missing:
            faults.append(f"{model.folder} lacks probabilities of the validation cases {listed(missing)}")
    if faults:
        raise DatasetError(
            f"{'; '.join(faults)}; validate with probabilities, or compare single models with --disable-ensembling"
        )


def _postprocessing_of(
    winner: _Compared, crossval: Crossval, order: SelectOrder, observer: Observer
) -> Determined:
    """Determine the postprocessing of the best."""
    errand = Errand("postprocess", observer, order.workers or default_workers())
    pairs = crossval.pairs(winner.segmentations)
    cases = ScoredCases(pairs, crossval.labels, winner.members[0].reader, errand)
    return determine(cases, winner.report)


def _reason(candidates: Sequence[Candidate], chosen: int, postprocessing: Postprocessing, cases: int) -> str:
    """Say why, in one sentence."""
    steps = [f"{{{', '.join(map(str, group))}}}" for group in postprocessing.keep_largest]
    end = (
        f"keeping only the largest component of {' and then of '.join(steps)} improves it"
        if steps
        else "no postprocessing improves it"
    )
    return f"{reason(candidates, chosen, cases)}; {end}"


def _notes(crossval: Crossval, report: EvaluationReport, keys: Sequence[str]) -> tuple[str, ...]:
    """Say what was compared otherwise than one might think."""
    left_out = [key for key in report.mean if key not in keys]
    notes = list(crossval.notes)
    if left_out:
        notes.append(
            f"labels {', '.join(left_out)} have no score, because no validation case has them; candidates were compared "
            "without them"
        )
    return tuple(notes)
