"""Which postprocessing makes segmentations better, found by trying it on cases whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import fmean
from typing import Final, TypeVar

from scipy.ndimage import find_objects

from core.domain.labels import LabelSet, Region, label_key
from core.domain.postprocessing import Postprocessing
from core.domain.report import CaseScores, EvaluationReport
from core.domain.selection import PostprocessingTrial
from core.evaluation.choice import is_better_for_all, is_higher
from core.evaluation.evaluate import FilePair, label_scores, read_pair, short_name, summarize
from core.evaluation.metrics import overlap_scores
from core.evaluation.side_by_side import Errand, each_case
from core.inference.postprocess import largest_kept, postprocessed
from core.io.readers import read_header

T = TypeVar("T")

BYTES_PER_VOXEL: Final = 24
"""Of a case: label maps as stored and as read, before and after, masks, components."""


@dataclass(frozen=True, slots=True)
class ScoredCases:
    """Segmentations whose truth is known."""

    pairs: Sequence[FilePair]
    labels: LabelSet
    reader: str
    """Of all files."""
    errand: Errand


@dataclass(frozen=True, slots=True)
class Determined:
    """What postprocessing helps, and what scores are with it."""

    postprocessing: Postprocessing
    trials: tuple[PostprocessingTrial, ...]
    report: EvaluationReport


def determine(cases: ScoredCases, before: EvaluationReport) -> Determined:
    """Find which postprocessing makes segmentations better.

    First only the largest component of all foreground stays; that is accepted if the foreground mean becomes
    higher and no label's Dice lower. Then, where there are several, the same of each label or region alone, in
    their order; that is accepted if its own Dice becomes higher, whatever becomes of others.

    Args:
        cases: Segmentations and references.
        before: Scores as they are.

    Raises:
        DomainError: Files cannot be read.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification B 7.7.
    """
    labels = cases.labels
    together = Postprocessing(keep_largest=(labels.foreground,))
    after = scored_with(cases, together)
    is_accepted = is_better_for_all(before, after)
    first = PostprocessingTrial(
        keep_largest=labels.foreground,
        scored="foreground_mean",
        before=before.foreground_mean.dice,
        after=after.foreground_mean.dice,
        accepted=is_accepted,
    )
    done = (
        Determined(together, (first,), after)
        if is_accepted
        else Determined(Postprocessing(), (first,), before)
    )
    heads = labels.foreground_heads
    if len(heads) == 1:
        return done
    # Removing voxels of one label changes no other, but regions share voxels, and are tried one after the other.
    for batch in [[head] for head in heads] if labels.has_regions else [list(heads)]:
        done = _each_alone(cases, done, batch)
    return done


def _each_alone(cases: ScoredCases, before: Determined, heads: Sequence[Region]) -> Determined:
    """Try each of some labels or regions alone, on top of what was accepted before."""
    work = partial(_dice_alone, cases=cases, postprocessing=before.postprocessing, heads=heads)
    found = _each_pair(work, cases)
    trials = []
    for head, dices in zip(heads, zip(*found, strict=True), strict=True):
        defined = [dice for dice in dices if dice is not None]
        own, dice = before.report.mean[label_key(head)].dice, fmean(defined) if defined else None
        trials.append(
            PostprocessingTrial(
                keep_largest=_members(head),
                scored=label_key(head),
                before=own,
                after=dice,
                accepted=is_higher(dice, own),
            )
        )
    added = [trial.keep_largest for trial in trials if trial.accepted]
    report, postprocessing = before.report, before.postprocessing
    if added:
        postprocessing = Postprocessing(keep_largest=(*postprocessing.keep_largest, *added))
        report = scored_with(cases, postprocessing)
    return Determined(postprocessing, (*before.trials, *trials), report)


def _dice_alone(
    pair: FilePair, cases: ScoredCases, postprocessing: Postprocessing, heads: Sequence[Region]
) -> list[float | None]:
    """Score each of some labels or regions of a case after keeping only its own largest component.

    Only the box around a label is looked at: with a hundred labels, whole images would take a hundred times as long.
    """
    reference, prediction = read_pair(pair, cases.reader)
    base_zyx = postprocessed(prediction.labels_zyx, postprocessing)
    highest = max(cases.labels.labels)
    boxes = [find_objects(labels_zyx, highest) for labels_zyx in (reference.labels_zyx, base_zyx)]
    found: list[float | None] = []
    for head in heads:
        members = _members(head)
        box = _union([one for each in boxes for label in members if (one := each[label - 1]) is not None])
        kept_zyx = largest_kept(base_zyx[box], members)
        scores = overlap_scores(reference.labels_zyx[box], kept_zyx, (head,), cases.labels.ignore)
        found.append(scores[label_key(head)].dice)
    return found


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return the box around boxes; an empty one around none."""
    if not boxes:
        return (slice(0, 0),)
    return tuple(
        slice(min(one.start for one in along), max(one.stop for one in along))
        for along in zip(*boxes, strict=True)
    )


def scored_with(cases: ScoredCases, postprocessing: Postprocessing) -> EvaluationReport:
    """Score segmentations as they would be after a postprocessing.

    Raises:
        DomainError: Files cannot be read.
        CancelledError: The observer asked to stop.
    """
    return summarize(_each_pair(partial(_score_with, cases=cases, postprocessing=postprocessing), cases))


def _each_pair(work: Callable[[FilePair], T], cases: ScoredCases) -> list[T]:
    """Do work on every pair of files."""
    return each_case(
        work,
        cases.pairs,
        cases.errand,
        name=lambda pair: pair.prediction.name,
        needs=lambda pair: BYTES_PER_VOXEL * prod(read_header(pair.prediction, cases.reader).shape),
    )


def _score_with(pair: FilePair, cases: ScoredCases, postprocessing: Postprocessing) -> CaseScores:
    """Score a case as it would be after a postprocessing."""
    reference, prediction = read_pair(pair, cases.reader)
    return CaseScores(
        metrics=label_scores(reference, postprocessed(prediction.labels_zyx, postprocessing), cases.labels),
        prediction_file=short_name(pair.prediction),
        reference_file=short_name(pair.reference),
    )


def _members(head: Region) -> tuple[int, ...]:
    """Return the labels that a region unites."""
    return head if isinstance(head, tuple) else (head,)
