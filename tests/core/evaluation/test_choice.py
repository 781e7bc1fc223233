import pytest

from core.domain.report import EvaluationReport, Scores
from core.domain.selection import Candidate
from core.evaluation.choice import best, compared_keys, is_better_for_all, is_higher, mean_dice, reason


def _scores(dice: float | None) -> Scores:
    return Scores(dice=dice, iou=None, tp=0, fp=0, fn=0, tn=0, n_pred=0, n_ref=0)


def _report(**dice: float | None) -> EvaluationReport:
    values = [value for value in dice.values() if value is not None]
    mean = sum(values) / len(values) if len(values) == len(dice) else None
    return EvaluationReport(
        foreground_mean=_scores(mean),
        mean={key: _scores(value) for key, value in dice.items()},
        metric_per_case=(),
    )


def _candidates(*dice: float | None) -> tuple[Candidate, ...]:
    return tuple(Candidate(members=(f"m{number}",), dice=value) for number, value in enumerate(dice))


@pytest.mark.parametrize(
    ("dice", "expected"),
    [((0.5, 0.7, 0.6), 1), ((0.7, 0.5, 0.7), 0), ((None, 0.0), 1), ((None, None), 0), ((0.0,), 0)],
)
def test_the_highest_dice_wins_and_the_first_of_equal_ones(
    dice: tuple[float | None, ...], expected: int
) -> None:
    assert best(_candidates(*dice)) == expected


def test_candidates_are_compared_by_what_all_of_them_score() -> None:
    reports = [_report(a=0.5, b=None, c=0.9), _report(a=0.6, b=0.0, c=0.7)]

    keys = compared_keys(reports)

    assert keys == ("a", "c")
    assert [mean_dice(report.mean, keys) for report in reports] == [pytest.approx(0.7), pytest.approx(0.65)]
    assert mean_dice(reports[0].mean, ()) is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (_report(a=0.6, b=0.8), True),
        (_report(a=0.9, b=0.7), False),
        (_report(a=0.5, b=0.8), False),
        (_report(a=0.9, b=None), False),
    ],
)
def test_all_together_must_gain_and_none_lose(after: EvaluationReport, *, expected: bool) -> None:
    assert is_better_for_all(_report(a=0.5, b=0.8), after) == expected


def test_undefined_is_neither_higher_nor_lower() -> None:
    assert is_higher(0.2, 0.1)
    assert not is_higher(0.1, 0.1)
    assert not is_higher(None, 0.1)
    assert not is_higher(0.1, None)


def test_the_reason_is_one_sentence_with_all_figures() -> None:
    assert reason(_candidates(0.5, None, 0.75), 2, 4) == (
        "m2 has the highest mean Dice over 4 validation cases, 0.7500; m0 0.5000, m1 unmeasured"
    )
    assert "comes first of those" in reason(_candidates(0.5, 0.5), 0, 4)
    assert (
        reason(_candidates(0.5), 0, 1)
        == "m0 is the only candidate; its mean Dice over 1 validation case is 0.5000"
    )
    assert "no validation case has anything to score" in reason(_candidates(None), 0, 1)
