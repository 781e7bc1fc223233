import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core import pipeline
from core.__main__ import main
from core.domain.ensemble import EnsembleRecord
from core.domain.model import ModelRecord, PredictionOptions
from core.domain.postprocessing import Postprocessing
from core.domain.progress import Progress, SilentObserver
from core.domain.selection import Selection
from core.errors import CancelledError, DatasetError, ModelError
from core.evaluation.evaluate import read_summary
from core.io.readers import read_labels
from core.pipeline.selection import SelectOrder, select
from tests.core.pipeline.bench import cascade_plan, dataset, order_of, train
from tests.core.pipeline.results import READER, describe, rows, save_labels, save_model, save_probabilities
from tests.factories import Recipe

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/evaluation_goldens/dev"

TRUE = [
    rows("11100000", "00000000", "00002222"),
    rows("11110000", "00000000", "00000222"),
    rows("01110000", "00000000", "00000022"),
    rows("11111000", "00000000", "00002222"),
]
POOR = [labels.copy() for labels in TRUE]
OTHER = [labels.copy() for labels in TRUE]
for _poor, _other in zip(POOR, OTHER, strict=True):
    _poor[_poor == 2] = 0
    _other[_other == 1] = 0


class Impatient(SilentObserver):
    def __init__(self, stage: str) -> None:
        self.stage, self.is_there = stage, False

    def report(self, progress: Progress) -> None:
        self.is_there = self.is_there or progress.stage == self.stage

    def stop_requested(self) -> bool:
        return self.is_there


@pytest.fixture
def references(tmp_path: Path) -> Path:
    for number, labels in enumerate(TRUE):
        save_labels(labels, tmp_path / "labelsTr", f"c{number}")
    return tmp_path / "labelsTr"


def _order(tmp_path: Path, *models: Path, **more: object) -> SelectOrder:
    return SelectOrder(models, tmp_path / "best", tmp_path / "labelsTr", workers=1, **more)  # type: ignore[arg-type]


@pytest.mark.usefixtures("references")
def test_the_best_of_several_models_is_left_as_one(tmp_path: Path) -> None:
    poor, good = save_model(tmp_path / "poor", POOR), save_model(tmp_path / "good", TRUE)

    selection = select(_order(tmp_path, poor, good, ensembling=False), SilentObserver())

    assert [(one.name, one.dice) for one in selection.candidates] == [("poor", 0.5), ("good", 1)]
    assert selection.winner == ("good",)
    assert (selection.folds, selection.cases) == ((0, 1), 4)
    best = tmp_path / "best"
    assert Selection.parse((best / "selection.json").read_text()) == selection
    assert sorted(path.relative_to(best).as_posix() for path in best.rglob("*") if path.is_file()) == [
        "dataset.json",
        "fold_0/weights.safetensors",
        "fold_1/weights.safetensors",
        "model.json",
        "plans.json",
        "postprocessing.json",
        "selection.json",
        "summary.json",
    ]
    assert (best / "fold_1/weights.safetensors").read_text() == "weights of good"
    assert len(read_summary(best / "summary.json").metric_per_case) == 4
    assert "good has the highest mean Dice over 4 validation cases, 1.0000; poor 0.5000" in selection.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "good", "labelsTr", "poor"]


@pytest.mark.usefixtures("references")
def test_an_ensemble_that_is_better_is_left_with_its_members(tmp_path: Path) -> None:
    models = [save_model(tmp_path / "one", POOR, sure=0.5), save_model(tmp_path / "two", OTHER, sure=0.5)]
    for model, labels in zip(models, (1, 2), strict=True):  # Each is sure of the label that it knows.
        for path in model.rglob("*.npz"):
            found = np.load(path)["probabilities"]
            sure = found[labels] == 0.5
            found[:, sure] = 0
            found[labels, sure] = 1
            save_probabilities(found, path.parent, path.stem)

    selection = select(_order(tmp_path, *models, segmentations=tmp_path / "kept"), SilentObserver())

    assert [one.dice for one in selection.candidates] == [0.5, 0.5, 1]
    assert selection.winner == ("one", "two")
    best = tmp_path / "best"
    assert EnsembleRecord.parse((best / "ensemble.json").read_text()).members == ("one", "two")
    assert (best / "members/two/fold_0/weights.safetensors").read_text() == "weights of two"
    assert (best / "members/one/model.json").is_file()
    merged = tmp_path / "kept/ensemble___one___two"
    assert (read_labels(merged / "c2.nii.gz", READER).labels_zyx == TRUE[2]).all()
    assert read_summary(merged / "summary.json") == read_summary(best / "summary.json")
    assert read_summary(tmp_path / "kept/one/summary.json").mean["2"].dice == 0


@pytest.mark.usefixtures("references")
def test_of_equal_candidates_the_first_is_chosen(tmp_path: Path) -> None:
    models = [save_model(tmp_path / name, TRUE, sure=0.9) for name in ("second", "first")]

    selection = select(_order(tmp_path, *models), SilentObserver())

    assert selection.winner == ("second",)
    assert "comes first" in selection.reason


@pytest.mark.usefixtures("references")
def test_the_postprocessing_of_the_best_is_determined_and_kept(tmp_path: Path) -> None:
    noisy = [labels.copy() for labels in TRUE]
    noisy[0][0, 2, 0] = noisy[1][0, 1, 7] = 1

    selection = select(_order(tmp_path, save_model(tmp_path / "noisy", noisy)), SilentObserver())

    kept = Postprocessing.parse((tmp_path / "best/postprocessing.json").read_text())
    assert kept.keep_largest == ((1,),)
    assert [(trial.scored, trial.accepted) for trial in selection.trials] == [
        ("foreground_mean", False),
        ("1", True),
        ("2", False),
    ]
    assert (selection.dice or 1) < 1
    assert selection.dice_postprocessed == 1
    assert "keeping only the largest component of {1} improves it" in selection.reason
    assert "only candidate" in selection.reason


def test_a_label_in_no_case_takes_nothing_from_the_comparison(tmp_path: Path) -> None:
    labels = {"background": 0, "a": 1, "b": 2, "never": 3}
    for number, values in enumerate(TRUE):
        save_labels(values, tmp_path / "labelsTr", f"c{number}")
    poor = save_model(tmp_path / "poor", POOR, labels=labels)
    good = save_model(tmp_path / "good", TRUE, labels=labels)

    selection = select(_order(tmp_path, poor, good, ensembling=False), SilentObserver())

    assert selection.winner == ("good",)
    assert [one.dice for one in selection.candidates] == [0.5, 1]
    assert "labels 3" in selection.notes[0]
    assert read_summary(tmp_path / "best/summary.json").foreground_mean.dice is None


def test_without_any_foreground_the_first_is_chosen(tmp_path: Path) -> None:
    nothing = [np.zeros_like(labels) for labels in TRUE]
    for number, values in enumerate(nothing):
        save_labels(values, tmp_path / "labelsTr", f"c{number}")
    models = [save_model(tmp_path / name, nothing, sure=0.9) for name in ("one", "two")]

    selection = select(_order(tmp_path, *models), SilentObserver())

    assert selection.winner == ("one",)
    assert (selection.dice, selection.dice_postprocessed) == (None, None)
    assert "no validation case has anything to score" in selection.reason


@pytest.mark.usefixtures("references")
def test_a_single_label_is_tried_once(tmp_path: Path) -> None:
    only = {"background": 0, "a": 1}
    for number, values in enumerate(POOR):
        save_labels(values, tmp_path / "labelsTr", f"c{number}")

    selection = select(_order(tmp_path, save_model(tmp_path / "one", POOR, labels=only)), SilentObserver())

    assert [trial.scored for trial in selection.trials] == ["foreground_mean"]


@pytest.mark.usefixtures("references")
def test_folds_that_differ_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    full, half = save_model(tmp_path / "full", TRUE), save_model(tmp_path / "half", TRUE)
    shutil.rmtree(half / "fold_1")

    with pytest.raises(DatasetError, match=r"half lacks validation cases of fold 1.*--folds 0"):
        select(_order(tmp_path, full, half, ensembling=False), SilentObserver())
    selection = select(_order(tmp_path, full, half, ensembling=False, folds=(0,)), SilentObserver())

    assert (selection.folds, selection.cases) == ((0,), 2)
    assert not (tmp_path / "best/fold_1").exists()


@pytest.mark.usefixtures("references")
def test_a_case_in_two_folds_is_named(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", TRUE)
    save_labels(TRUE[0], model / "fold_1/validation", "c0")

    with pytest.raises(DatasetError, match=r"c0 was validated by fold_0 and by fold_1"):
        select(_order(tmp_path, model), SilentObserver())


@pytest.mark.usefixtures("references")
def test_a_case_that_one_model_lacks_is_named(tmp_path: Path) -> None:
    models = [save_model(tmp_path / name, TRUE, sure=0.9) for name in ("one", "two")]
    (models[1] / "fold_1/validation/c3.nii.gz").unlink()

    with pytest.raises(DatasetError, match=r"two did not validate c3"):
        select(_order(tmp_path, *models), SilentObserver())


@pytest.mark.usefixtures("references")
def test_probabilities_that_are_missing_are_named(tmp_path: Path) -> None:
    models = [save_model(tmp_path / name, TRUE, sure=0.9) for name in ("one", "two")]
    (models[0] / "fold_0/validation/c2.npz").unlink()

    with pytest.raises(DatasetError, match=r"one lacks probabilities .* c2; .*--disable-ensembling"):
        select(_order(tmp_path, *models), SilentObserver())
    assert not (tmp_path / "best").exists()


def test_references_that_are_missing_are_named(tmp_path: Path, references: Path) -> None:
    model = save_model(tmp_path / "m", TRUE)
    (references / "c1.nii.gz").unlink()

    with pytest.raises(DatasetError, match=r"labelsTr has no reference of c1"):
        select(_order(tmp_path, model), SilentObserver())
    with pytest.raises(DatasetError, match=r"labelsTr.*--references"):
        select(SelectOrder([model], tmp_path / "best"), SilentObserver())


def test_references_within_a_model_are_found(tmp_path: Path, references: Path) -> None:
    model = save_model(tmp_path / "m", TRUE)
    references.rename(model / "gt_segmentations")

    assert select(SelectOrder([model], tmp_path / "best", workers=1), SilentObserver()).dice == 1


@pytest.mark.usefixtures("references")
def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", TRUE)
    other = save_model(tmp_path / "o", TRUE, labels={"background": 0, "a": 1})
    bare = tmp_path / "bare"
    describe(bare)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()

    with pytest.raises(ModelError, match="different datasets"):
        select(_order(tmp_path, model, other), SilentObserver())
    with pytest.raises(ModelError, match="no fold with validation cases"):
        select(_order(tmp_path, bare), SilentObserver())
    with pytest.raises(ModelError, match=r"labelsTr.*no dataset\.json"):
        select(_order(tmp_path, tmp_path / "labelsTr"), SilentObserver())
    with pytest.raises(ModelError, match="several models are called m"):
        select(_order(tmp_path, model, model), SilentObserver())
    with pytest.raises(ModelError, match="no model to choose"):
        select(_order(tmp_path), SilentObserver())
    with pytest.raises(DatasetError, match="not empty"):
        select(SelectOrder([model], tmp_path / "full", tmp_path / "labelsTr"), SilentObserver())


@pytest.mark.usefixtures("references")
@pytest.mark.parametrize("stage", ["evaluate", "ensemble", "postprocess"])
def test_a_selection_that_is_stopped_leaves_nothing(tmp_path: Path, stage: str) -> None:
    models = [save_model(tmp_path / name, TRUE, sure=0.9) for name in ("one", "two")]

    with pytest.raises(CancelledError):
        select(_order(tmp_path, *models), Impatient(stage))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["labelsTr", "one", "two"]


def test_what_was_trained_here_can_be_selected_and_predict(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", Recipe(cases=4, shape=(10, 12, 14)))
    for name in ("low", "full"):
        for fold in (0, 1):
            train(order_of(raw, cascade_plan(), f"3d_{name}res", tmp_path / name, fold))
    order = SelectOrder(
        [tmp_path / "low", tmp_path / "full"], tmp_path / "best", ensembling=False
    )  # The references are those that the trainings left.

    selection = select(order, SilentObserver())

    record = ModelRecord.parse((tmp_path / "best/model.json").read_text())
    assert (selection.folds, selection.cases) == ((0, 1), 4)
    assert record.configuration == f"3d_{selection.winner[0]}res"
    assert pipeline.load(tmp_path / "best", PredictionOptions(device="cpu")).folds == (0, 1)


@pytest.mark.usefixtures("references")
def test_a_cascade_takes_the_stage_before_along(tmp_path: Path) -> None:
    low, cascade = save_model(tmp_path / "low", POOR), save_model(tmp_path / "cascade", TRUE)
    for model, name in ((low, "3d_lowres"), (cascade, "3d_cascade_fullres")):
        (model / "plans.json").write_text(json.dumps(cascade_plan().to_json()))
        record = {"version": 1, "configuration": name, "mirror_axes": [], "settings": {}}
        (model / "model.json").write_text(json.dumps(record))

    both = select(_order(tmp_path, low, cascade, ensembling=False), SilentObserver())
    shutil.move(tmp_path / "best", tmp_path / "kept")
    alone = select(_order(tmp_path, cascade, ensembling=False), SilentObserver())

    assert (both.winner, both.notes) == (("cascade",), ())
    assert (tmp_path / "kept/previous/fold_1/weights.safetensors").read_text() == "weights of low"
    assert "refines what 3d_lowres segments" in alone.notes[0]


@pytest.mark.parity
def test_the_recorded_selection_is_reproduced(tmp_path: Path) -> None:
    recorded = GOLDENS / "find_best_configuration/nnUNet_results/Dataset777_Best"
    if not recorded.is_dir():
        pytest.skip("the reference's recorded selection (../shared) is absent")
    information = json.loads((recorded / "inference_information.json").read_text())
    names = ["nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"]
    ensemble = f"ensemble___{'___'.join(names)}"
    out, kept = tmp_path / "best", tmp_path / "kept"

    models = [str(recorded / name) for name in names]
    status = main(["select", "--models", *models, "--out", str(out), "--segmentations", str(kept)])

    assert status == 0
    selection = Selection.parse((out / "selection.json").read_text())
    found = {"___".join(("ensemble", *one.members)) if len(one.members) > 1 else one.name: one.dice
             for one in selection.candidates}  # fmt: skip
    expected = {key.removesuffix("___0_1_2_3_4"): dice for key, dice in information["all_results"].items()}
    assert found == pytest.approx(expected, abs=1e-9)
    best = information["best_model_or_ensemble"]
    assert list(selection.winner) == names
    assert selection.dice == pytest.approx(best["result_on_crossval_pre_pp"], abs=1e-9)
    assert selection.dice_postprocessed == pytest.approx(best["result_on_crossval_post_pp"], abs=1e-9)
    assert not any(trial.accepted for trial in selection.trials)
    figures = [figure for trial in selection.trials[1:] for figure in (trial.before, trial.after)]
    assert figures == pytest.approx([0.88737, 0.86246, 0.89026, 0.80641], abs=5e-6)
    for name, folder in (
        (ensemble, recorded / "ensembles" / f"{ensemble}___0_1_2_3_4"),
        *((name, recorded / name / "crossval_results_folds_0_1_2_3_4") for name in names),
    ):
        _require_equal(kept / name, folder)


def _require_equal(found: Path, recorded: Path) -> None:
    segmentations = sorted(path.name for path in recorded.glob("*.nii.gz"))
    assert sorted(path.name for path in found.glob("*.nii.gz")) == segmentations
    for name in segmentations:
        one, other = (read_labels(folder / name, READER) for folder in (found, recorded))
        assert (one.labels_zyx == other.labels_zyx).all()
        assert one.geometry == other.geometry
    ours, theirs = (read_summary(folder / "summary.json") for folder in (found, recorded))
    assert ours.foreground_mean.model_dump() == pytest.approx(theirs.foreground_mean.model_dump(), abs=1e-9)
    for key, scores in theirs.mean.items():
        assert ours.mean[key].model_dump() == pytest.approx(scores.model_dump(), abs=1e-9)


def test_a_place_that_lacks_references_gives_way_to_one_that_has_all(tmp_path: Path) -> None:
    model = save_model(tmp_path / "nnUNet_results/Dataset001_A/model", TRUE)
    save_labels(TRUE[0], model / "gt_segmentations", "c0")
    for number, labels in enumerate(TRUE):
        save_labels(labels, tmp_path / "nnUNet_raw/Dataset001_A/labelsTr", f"c{number}")

    selection = select(SelectOrder([model], tmp_path / "best", workers=1), SilentObserver())

    assert (selection.cases, selection.dice) == (4, 1)
