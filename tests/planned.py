"""Fingerprints of datasets that the literature knows, and plans for them."""

from typing import Any

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint, IntensityProperties
from core.domain.geometry import Shape, Spacing
from core.domain.plan import Plan
from core.planning.planner import PlannerSettings, plan_experiments

INTENSITIES = IntensityProperties(
    max=200.0, mean=80.0, median=75.0, min=1.0, percentile_00_5=3.0, percentile_99_5=190.0, std=30.0
)


def describe(cases: int, labels: int = 3, channels: tuple[str, ...] = ("MRI",)) -> DatasetDescription:
    return DatasetDescription(
        channel_names={str(number): name for number, name in enumerate(channels)},
        labels={"background": 0, **{f"label {value}": value for value in range(1, labels)}},
        training_cases=cases,
        file_ending=".nii.gz",
    )


def measure(
    spacings: list[Spacing], shapes: list[Shape], channels: int = 1, relative_size: float = 1.0
) -> Fingerprint:
    return Fingerprint(
        foreground_intensity_properties_per_channel={str(number): INTENSITIES for number in range(channels)},
        median_relative_size_after_cropping=relative_size,
        shapes_after_crop=tuple(shapes),
        spacings=tuple(spacings),
    )


HIPPOCAMPUS = (measure([(1.0, 1.0, 1.0)] * 260, [(36, 50, 35)] * 260), describe(260))
ACDC = (
    measure(
        [(10.0, 1.5625, 1.5625)] * 150 + [(5.0, 1.4, 1.4)] * 50,
        [(9, 237, 208)] * 100 + [(10, 230, 200)] * 100,
    ),
    describe(200),
)
LIVER = (measure([(1.0, 0.7675, 0.7675)] * 131, [(432, 512, 512)] * 131), describe(131, channels=("CT",)))
BRATS = (
    measure([(1.0, 1.0, 1.0)] * 484, [(140, 171, 137)] * 484, channels=4, relative_size=0.37),
    describe(484, labels=4, channels=("T1", "T1ce", "T2", "FLAIR")),
)
AERIAL = (measure([(999.0, 1.0, 1.0)] * 800, [(1, 1500, 1500)] * 800), describe(800, labels=2))


def plan(dataset: tuple[Fingerprint, DatasetDescription], **choices: Any) -> Plan:
    return plan_experiments(*dataset, PlannerSettings(reader="SimpleITKIO", **choices))
