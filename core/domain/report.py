"""Scores of cases and of a whole evaluation: summary.json of nnU-Net v2."""

from pydantic import Field

from core.domain.record import Record, SharedRecord


class Scores(Record):
    """Overlap of one label or region; null where a ratio is undefined. Means over cases make counts fractional."""

    dice: float | None = Field(alias="Dice")
    iou: float | None = Field(alias="IoU")
    tp: float = Field(alias="TP")
    fp: float = Field(alias="FP")
    fn: float = Field(alias="FN")
    tn: float = Field(alias="TN")
    n_pred: float
    n_ref: float


class CaseScores(SharedRecord):
    """Scores of one case, keyed by label key: `1`, or `(1, 2, 3)` for a region."""

    metrics: dict[str, Scores]
    prediction_file: str
    reference_file: str


class EvaluationReport(SharedRecord):
    """summary.json: undefined values are null.

    Source:
        Engine specification A 1.13, B 7.3 and 7.4.
    """

    foreground_mean: Scores
    mean: dict[str, Scores]
    metric_per_case: tuple[CaseScores, ...]
