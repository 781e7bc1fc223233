"""Scores of cases and of a whole evaluation: summary.json of nnU-Net v2."""

from typing import Final

from pydantic import Field

from core.domain.record import Record, SharedRecord

SUMMARY_FILE: Final = "summary.json"
"""The report's name in a folder of segmentations."""

TOLERANCE_MM: Final = 1.0
"""How far apart two surfaces may be and still agree, if nobody says otherwise: about as much as two people who
annotate the same small structure differ; in the hippocampus task of the Medical Segmentation Decathlon it is the
same."""


class Scores(SharedRecord):
    """Overlap of one label or region; null where a ratio is undefined. Means over cases make counts fractional.

    What follows `n_ref` is measured on request, and absent otherwise.
    """

    dice: float | None = Field(alias="Dice")
    iou: float | None = Field(alias="IoU")
    tp: float = Field(alias="TP")
    fp: float = Field(alias="FP")
    fn: float = Field(alias="FN")
    tn: float = Field(alias="TN")
    n_pred: float
    n_ref: float
    surface_dice: float | None = None
    """Share of both surfaces that lies within the tolerance of the other one."""
    hd95_mm: float | None = None
    """Hausdorff distance, of which the farthest 5 % of either surface are left out."""
    volume_difference_ml: float | None = None
    """Predicted minus true volume; undefined in 2D."""
    volume_difference_relative: float | None = None
    """The same as a share of the true volume; in 2D of the true area."""


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
    surface_tolerance_mm: float | None = None
    """Of `surface_dice`, where that was measured."""


NOTHING_SCORED: Final = EvaluationReport(
    foreground_mean=Scores(dice=None, iou=None, tp=0, fp=0, fn=0, tn=0, n_pred=0, n_ref=0),
    mean={},
    metric_per_case=(),
)
"""The report on no case; never written."""


class EvaluationOptions(Record):
    """What is measured beside overlap."""

    surface: bool = False
    """Whether surfaces and volumes are compared too."""
    tolerance_mm: float = Field(default=TOLERANCE_MM, gt=0, le=1000)
