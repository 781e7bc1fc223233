import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.domain.dataset import DatasetDescription
from core.domain.progress import Progress, SilentObserver
from core.domain.report import CaseScores
from core.errors import CancelledError, DatasetError, ImageError
from core.evaluation.evaluate import (
    evaluate_folder,
    file_pairs,
    read_summary,
    summarize,
    write_summary,
)
from core.evaluation.metrics import overlap_scores
from core.evaluation.surface import surface_scores
from core.io.image import Geometry, LabelMap
from core.io.readers import write_labels

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/evaluation_goldens/dev/evaluation"
READER = "SimpleITKIO"
GEOMETRY = Geometry(
    spacing=(1, 1, 1), file_spacing_xyz=(1, 1, 1), origin_xyz=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)
DESCRIPTION = DatasetDescription.model_validate(
    {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
)


class Watcher(SilentObserver):
    def __init__(self, *, stop: bool = False) -> None:
        self.reports: list[Progress] = []
        self.stop = stop

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def stop_requested(self) -> bool:
        return self.stop


def _write(folder: Path, name: str, *labels: int, width: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    values = np.zeros((2, 2, width or len(labels)), dtype=np.uint8)
    values[0, 0, : len(labels)] = labels
    write_labels(LabelMap(values, GEOMETRY), folder / f"{name}.nii.gz", READER)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    references, predictions = tmp_path / "labels", tmp_path / "found"
    _write(references, "p1", 1, 1, 2, 0)
    _write(references, "p2", 1, 0, 0, 0)
    _write(predictions, "p1", 1, 0, 2, 0)
    _write(predictions, "p2", 1, 0, 0, 0)
    return predictions, references


def test_a_folder_is_scored_case_by_case_and_on_average(folders: tuple[Path, Path]) -> None:
    watcher = Watcher()

    report = evaluate_folder(*folders, DESCRIPTION, READER, watcher)

    assert [case.prediction_file for case in report.metric_per_case] == ["found/p1.nii.gz", "found/p2.nii.gz"]
    assert report.mean["1"].dice == pytest.approx((2 / 3 + 1) / 2)
    assert report.mean["2"].dice == 1
    assert report.foreground_mean.dice == pytest.approx((5 / 6 + 1) / 2)
    assert report.mean["1"].tp == 1
    assert [(seen.stage, seen.done, seen.total) for seen in watcher.reports] == [
        ("evaluate", 1, 2),
        ("evaluate", 2, 2),
    ]


def test_a_summary_is_the_same_after_writing_and_reading(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = evaluate_folder(*folders, DESCRIPTION, READER, SilentObserver())

    path = write_summary(report, tmp_path)

    assert read_summary(path) == report
    assert list(json.loads(path.read_text())) == ["foreground_mean", "mean", "metric_per_case"]
    assert list(json.loads(path.read_text())["mean"]["1"]) == [
        "Dice",
        "FN",
        "FP",
        "IoU",
        "TN",
        "TP",
        "n_pred",
        "n_ref",
    ]


def test_surfaces_are_measured_and_averaged_on_request(folders: tuple[Path, Path], tmp_path: Path) -> None:
    surfaces = partial(surface_scores, tolerance_mm=0.5)

    report = evaluate_folder(*folders, DESCRIPTION, READER, SilentObserver(), surfaces=surfaces)

    first, second = (case.metrics["1"] for case in report.metric_per_case)
    assert first.hd95_mm == pytest.approx(0.95)  # Of two voxels one is 1 mm away.
    assert second.hd95_mm == 0
    assert report.mean["1"].hd95_mm == pytest.approx(0.475)
    assert report.mean["2"].surface_dice == 1
    assert report.mean["1"].volume_difference_ml == pytest.approx(-0.0005)
    assert report.foreground_mean.volume_difference_relative == pytest.approx(-0.125)
    assert read_summary(write_summary(report, tmp_path)) == report


def test_a_region_of_one_label_has_the_key_of_a_region(folders: tuple[Path, Path]) -> None:
    regions = DESCRIPTION.model_copy(
        update={"labels": {"background": 0, "whole": (1, 2), "core": (2,)}, "regions_class_order": (1, 2)}
    )

    report = evaluate_folder(*folders, regions, READER, SilentObserver())

    assert list(report.mean) == ["(1, 2)", "(2,)"]
    assert report.mean["(2,)"].dice == 1


def test_a_class_absent_everywhere_leaves_the_foreground_mean_undefined() -> None:
    labels = np.asarray([[[0, 1, 1]]])
    case = CaseScores(
        metrics=overlap_scores(labels, labels, (1, 2), None), prediction_file="p/a", reference_file="r/a"
    )

    report = summarize([case])

    assert report.mean["2"].dice is None
    assert report.foreground_mean.dice is None
    assert report.foreground_mean.n_ref == 1


def test_missing_and_superfluous_files_are_all_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "p1.nii.gz").rename(predictions / "p9.nii.gz")

    with pytest.raises(DatasetError, match=r"p9\.nii\.gz.*remove.*p1\.nii\.gz.*predict"):
        file_pairs(predictions, references, ".nii.gz", is_partial=False)


def test_a_partial_evaluation_needs_only_references_of_what_is_predicted(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / "p1.nii.gz").unlink()

    report = evaluate_folder(predictions, references, DESCRIPTION, READER, SilentObserver(), is_partial=True)

    assert len(report.metric_per_case) == 1


def test_nothing_to_evaluate_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    with pytest.raises(DatasetError, match="nothing to evaluate"):
        evaluate_folder(empty, folders[1], DESCRIPTION, READER, SilentObserver())
    with pytest.raises(DatasetError, match="no folder lost"):
        evaluate_folder(tmp_path / "lost", folders[1], DESCRIPTION, READER, SilentObserver())


def test_every_case_on_another_grid_is_named(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    _write(predictions, "p1", 1, 0, 2, 0, width=5)
    _write(predictions, "p2", 1, 0, 2, 0, width=6)

    with pytest.raises(ImageError, match=r"p1.*2 x 2 x 5.*2 x 2 x 4.*p2.*2 x 2 x 6"):
        evaluate_folder(predictions, references, DESCRIPTION, READER, SilentObserver())


def test_evaluation_stops_when_asked(folders: tuple[Path, Path]) -> None:
    with pytest.raises(CancelledError):
        evaluate_folder(*folders, DESCRIPTION, READER, Watcher(stop=True))


def test_undefined_values_are_read_as_bare_tokens_too(tmp_path: Path) -> None:
    scores = '{"Dice": NaN, "IoU": NaN, "TP": 0, "FP": 0, "FN": 0, "TN": 8, "n_pred": 0, "n_ref": 0}'
    path = tmp_path / "summary.json"
    path.write_text(f'{{"foreground_mean": {scores}, "mean": {{"1": {scores}}}, "metric_per_case": []}}')

    assert read_summary(path).mean["1"].dice is None


@pytest.mark.parametrize("text", ["{", "[]", '{"mean": {}}'])
def test_what_is_no_summary_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text)

    with pytest.raises(DatasetError, match=r"summary\.json"):
        read_summary(path)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["plain", "ignore", "regions", "regions_ignore", "class_absent_everywhere"])
def test_recorded_evaluations_are_reproduced(name: str) -> None:
    if not GOLDENS.is_dir():
        pytest.skip("the reference's recorded evaluations (../shared) are absent")
    arguments = json.loads((GOLDENS / name / "args.json").read_text())
    heads = [tuple(head) if isinstance(head, list) else head for head in arguments["labels_or_regions"]]
    labels = {f"label {i}": head for i, head in enumerate(heads)} | {"background": 0}
    if arguments["ignore_label"] is not None:
        labels["ignore"] = arguments["ignore_label"]
    description = DESCRIPTION.model_copy(
        update={"labels": labels, "regions_class_order": tuple(range(1, len(heads) + 1))}
    )

    report = evaluate_folder(
        GOLDENS / name / "pred",
        GOLDENS / name / "ref",
        description,
        READER,
        SilentObserver(),
        is_partial=True,
    )

    expected = read_summary(GOLDENS / name / "summary.json")
    assert [case.metrics for case in report.metric_per_case] == [
        case.metrics for case in expected.metric_per_case
    ]
    assert report.mean.keys() == expected.mean.keys()
    for key, scores in expected.mean.items():
        assert report.mean[key].model_dump() == pytest.approx(scores.model_dump(), abs=1e-12)
    assert report.foreground_mean.model_dump() == pytest.approx(
        expected.foreground_mean.model_dump(), abs=1e-12
    )
