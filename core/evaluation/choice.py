"""Which of several candidates is the best, and whether postprocessing helps: decided from scores alone."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from core.domain.report import EvaluationReport, Scores
from core.domain.selection import Candidate


def compared_keys(reports: Sequence[EvaluationReport]) -> tuple[str, ...]:
    """Return the labels or regions by which candidates are compared: those that are scored in all of them.

    A label that occurs in no case has no score; one that a candidate finds nevertheless, and another does not,
    is left out too, because their means would be over different labels.

    Args:
        reports: Of all candidates, on the same cases.

    Source:
        Engine specification B 7.6 and Q25; deviation: there one label without a score leaves all undefined.
    """
    first = reports[0].mean
    return tuple(key for key in first if all(report.mean[key].dice is not None for report in reports))


def mean_dice(mean: Mapping[str, Scores], keys: Sequence[str]) -> float | None:
    """Average the Dice of labels or regions; None if there is none.

    Args:
        mean: Scores averaged over cases, by key.
        keys: Whose, each with a score.
    """
    values = [dice for key in keys if (dice := mean[key].dice) is not None]
    return fmean(values) if values else None


def best(candidates: Sequence[Candidate]) -> int:
    """Return which candidate has the highest Dice; the first of equal ones, and the first if none has any.

    Source:
        Engine specification B 7.6 (5).
    """
    return max(range(len(candidates)), key=lambda index: _rank(candidates[index].dice))


def _rank(dice: float | None) -> float:
    """Return a number by which candidates are ordered; no Dice is worse than any."""
    return -1.0 if dice is None else dice


def is_better_for_all(before: EvaluationReport, after: EvaluationReport) -> bool:
    """Whether the foreground mean became higher, and the mean of no label or region lower.

    What is undefined is neither higher nor lower.

    Source:
        Engine specification B 7.7, step A.
    """
    worse = [key for key, scores in before.mean.items() if is_higher(scores.dice, after.mean[key].dice)]
    return is_higher(after.foreground_mean.dice, before.foreground_mean.dice) and not worse


def is_higher(one: float | None, other: float | None) -> bool:
    """Whether both are defined and the first is higher.

    Source:
        Engine specification B 7.7, step B: of the label or region alone.
    """
    return one is not None and other is not None and one > other


def reason(candidates: Sequence[Candidate], winner: int, cases: int) -> str:
    """Say why a candidate was chosen, in one sentence."""
    chosen = candidates[winner]
    if chosen.dice is None:
        return f"{chosen.name} was chosen because it comes first: no validation case has anything to score"
    on = f"over {cases} validation {'case' if cases == 1 else 'cases'}"
    if len(candidates) == 1:
        return f"{chosen.name} is the only candidate; its mean Dice {on} is {chosen.dice:.4f}"
    others = sorted(
        (one for index, one in enumerate(candidates) if index != winner),
        key=lambda one: _rank(one.dice),
        reverse=True,
    )
    figures = ", ".join(f"{one.name} {_figure(one.dice)}" for one in others)
    tie = " and comes first of those that have it" if others[0].dice == chosen.dice else ""
    return f"{chosen.name} has the highest mean Dice {on}, {chosen.dice:.4f}{tie}; {figures}"


def _figure(dice: float | None) -> str:
    """Write a Dice for a person."""
    return "unmeasured" if dice is None else f"{dice:.4f}"
