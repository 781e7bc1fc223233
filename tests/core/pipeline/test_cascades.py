"""A cascade from its first stage to the prediction: what one stage segments really reaches the next."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from core import pipeline
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import SilentObserver
from core.errors import DatasetError, DomainError, ModelError, PlanError, TrainingError
from core.inference.model import LoadedModel
from core.io.case_store import CaseStore
from core.io.next_stage import file_of, read_next_stage, save_next_stage
from core.io.readers import read_labels, write_labels
from core.pipeline.cascades import keep_previous, next_stage_folder
from tests.core.pipeline.bench import cascade_plan, dataset, order_of, train
from tests.factories import Recipe, case_name

RECIPE = Recipe(cases=4, shape=(12, 18, 16), vary_shape=True)
LOW, FULL = "3d_lowres", "3d_cascade_fullres"
OPTIONS = PredictionOptions(device="cpu", precision="fp32")
READER = "SimpleITKIO"


@dataclass(frozen=True)
class Bench:
    raw: Path
    plan: Plan
    low: Path
    """Model of the first stage, both folds."""
    cascade: Path
    """Model of the second stage, fold 0."""

    @property
    def handed_on(self) -> Path:
        return next_stage_folder(self.low, FULL)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("cascade")
    made = Bench(dataset(folder / "raw", RECIPE), cascade_plan(), folder / "low", folder / "cascade")
    for fold in (0, 1):
        train(order_of(made.raw, made.plan, LOW, made.low, fold, iterations_per_epoch=12))
    train(
        order_of(made.raw, made.plan, FULL, made.cascade),
        previous=(made.handed_on,),
        previous_model=made.low,
    )
    return made


def test_every_case_is_handed_on_on_the_next_stages_grid(bench: Bench) -> None:
    store = CaseStore(bench.cascade / "preprocessed" / FULL)

    for number in range(RECIPE.cases):
        name = case_name(number)
        labels_zyx = read_next_stage(file_of(bench.handed_on, name), name, store.load(name))
        assert labels_zyx.dtype == np.uint8
        assert set(np.unique(labels_zyx)) <= {0, 1, 2}
    assert not (bench.cascade / "predicted_next_stage").exists()


def test_what_is_handed_on_is_what_validation_segmented(bench: Bench) -> None:
    for number in (0, 1):
        name = case_name(number)
        path = bench.low / f"fold_{number}" / "validation" / f"{name}.nii.gz"
        whole_zyx = read_labels(path, READER).labels_zyx
        case = CaseStore(bench.cascade / "preprocessed" / FULL).load(name)
        z, y, x = (slice(*pair) for pair in case.properties.bbox_used_for_cropping)
        handed_zyx = read_next_stage(file_of(bench.handed_on, name), name, case)
        assert (handed_zyx == whole_zyx[z, y, x]).mean() > 0.99
        assert len(np.unique(handed_zyx)) > 1


def test_a_trained_cascade_predicts_by_itself(bench: Bench, tmp_path: Path) -> None:
    images = bench.raw / "imagesTr"
    assert (bench.cascade / "fold_0/validation/summary.json").is_file()

    done = pipeline.predict_folder(bench.cascade, images, tmp_path / "own", OPTIONS, SilentObserver())
    pipeline.predict_folder(bench.low, images, tmp_path / "low", OPTIONS, SilentObserver())
    pipeline.predict_folder(
        bench.cascade, images, tmp_path / "told", OPTIONS, SilentObserver(), previous=tmp_path / "low"
    )

    assert done.segmented == RECIPE.cases
    for number in range(RECIPE.cases):
        name = f"{case_name(number)}.nii.gz"
        own, told = (read_labels(tmp_path / run / name, READER).labels_zyx for run in ("own", "told"))
        assert np.array_equal(own, told)


def test_another_previous_segmentation_changes_the_prediction(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    name = case_name(0)
    source = bench.raw / "imagesTr" / f"{name}_0000.nii.gz"
    (tmp_path / "images" / source.name).write_bytes(source.read_bytes())
    reference = read_labels(bench.raw / "labelsTr" / f"{name}.nii.gz", READER)

    found = []
    for value in (0, 1, 2):
        (tmp_path / str(value)).mkdir()
        told = replace(reference, labels_zyx=np.full_like(reference.labels_zyx, value))
        write_labels(told, tmp_path / str(value) / f"{name}.nii.gz", READER)
        out = tmp_path / f"out_{value}"
        pipeline.predict_folder(
            bench.cascade, tmp_path / "images", out, OPTIONS, SilentObserver(), previous=tmp_path / str(value)
        )
        found.append(read_labels(out / f"{name}.nii.gz", READER).labels_zyx)

    assert (found[0] != found[1]).any()
    assert (found[1] != found[2]).any()


def test_another_previous_segmentation_changes_training_and_validation(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for number in range(RECIPE.cases):
        name = case_name(number)
        shape = CaseStore(bench.cascade / "preprocessed" / FULL).load(name).voxels_czyx.shape[1:]
        save_next_stage(other, name, np.ones(shape, np.uint8), 0)
    preprocessed = bench.cascade / "preprocessed" / FULL

    for run, previous in (("same", bench.handed_on), ("other", other)):
        order = order_of(bench.raw, bench.plan, FULL, tmp_path / run)
        train(order, previous=(previous,), preprocessed=preprocessed)

    first, same, changed = (
        (model / "fold_0/epochs.jsonl").read_text().split('"train_loss":')[1].split(",")[0]
        for model in (bench.cascade, tmp_path / "same", tmp_path / "other")
    )
    assert first == same != changed
    segmented = [
        read_labels(model / f"fold_0/validation/{case_name(0)}.nii.gz", READER).labels_zyx
        for model in (bench.cascade, tmp_path / "same", tmp_path / "other")
    ]
    assert np.array_equal(segmented[0], segmented[1])
    assert (segmented[0] != segmented[2]).any()


def test_missing_cases_are_named_with_the_folds_that_segment_them(bench: Bench, tmp_path: Path) -> None:
    order = order_of(bench.raw, bench.plan, FULL, tmp_path / "model")
    part = tmp_path / "part"
    part.mkdir()
    for number in (0, 2):
        name = f"{case_name(number)}.npz"
        (part / name).write_bytes((bench.handed_on / name).read_bytes())

    with pytest.raises(
        TrainingError, match=r"3d_lowres are missing for 4 of 4 cases: phantom_000, .*folds 0, 1 of"
    ):
        train(order)
    with pytest.raises(
        TrainingError, match=r"2 of 4 cases: phantom_001, phantom_003; train fold 1 of 3d_lowres"
    ):
        train(order, previous=(part,))
    assert not (tmp_path / "model").exists()


def test_what_belongs_to_another_grid_is_named_before_training(bench: Bench, tmp_path: Path) -> None:
    for number in range(RECIPE.cases):
        save_next_stage(tmp_path / "odd", case_name(number), np.zeros((3, 3, 3), np.uint8), 0)

    with pytest.raises(DatasetError, match=r"in case phantom_00\d has \(3, 3, 3\) voxels"):
        train(
            order_of(bench.raw, bench.plan, FULL, tmp_path / "model"),
            previous=(tmp_path / "odd",),
            preprocessed=bench.cascade / "preprocessed" / FULL,
        )


def test_a_previous_model_must_be_of_the_stage_before(bench: Bench, tmp_path: Path) -> None:
    order = order_of(bench.raw, bench.plan, FULL, tmp_path / "model")
    handed: dict[str, Any] = {"previous": (bench.handed_on,)}

    with pytest.raises(ModelError, match="holds a model of 3d_cascade_fullres; name that of 3d_lowres"):
        train(order, previous_model=bench.cascade, **handed)
    with pytest.raises(ModelError, match=r"is no model folder, it has no model\.json"):
        train(order, previous_model=tmp_path, **handed)
    with pytest.raises(TrainingError, match="3d_fullres is no later stage of a cascade"):
        train(replace(order, configuration="3d_fullres"), **handed)


def test_the_stage_before_is_kept_whole_and_follows_its_source(bench: Bench, tmp_path: Path) -> None:
    kept = {
        path.relative_to(bench.cascade / "previous").as_posix() for path in _files(bench.cascade / "previous")
    }
    folds = {f"fold_{fold}/{name}" for fold in (0, 1) for name in ("weights.safetensors", "fold.json")}
    assert kept == {"model.json", "plans.json", "dataset.json"} | folds

    stale = tmp_path / "model/previous/fold_7/weights.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    keep_previous(bench.low, tmp_path / "model", LOW)
    keep_previous(tmp_path / "model/previous", tmp_path / "model", LOW)

    assert {
        path.relative_to(tmp_path / "model/previous").as_posix()
        for path in _files(tmp_path / "model/previous")
    } == kept


def test_the_two_models_may_lie_apart(bench: Bench, tmp_path: Path) -> None:
    train(
        order_of(bench.raw, bench.plan, FULL, tmp_path / "apart"),
        previous=(bench.handed_on,),
        preprocessed=bench.cascade / "preprocessed" / FULL,
    )
    images = bench.raw / "imagesTr"

    with pytest.raises(
        ModelError, match="refines what 3d_lowres segments; give that segmentation, or the model"
    ):
        pipeline.predict_folder(tmp_path / "apart", images, tmp_path / "x", OPTIONS, SilentObserver())
    pipeline.predict_folder(
        tmp_path / "apart", images, tmp_path / "out", OPTIONS, SilentObserver(), previous_model=bench.low
    )
    pipeline.predict_folder(bench.cascade, images, tmp_path / "own", OPTIONS, SilentObserver())

    name = f"{case_name(1)}.nii.gz"
    assert np.array_equal(
        read_labels(tmp_path / "out" / name, READER).labels_zyx,
        read_labels(tmp_path / "own" / name, READER).labels_zyx,
    )


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"previous": "few"}, DatasetError, r"3 of 4 images: phantom_001\.nii\.gz, .* in .*few"),
        ({"previous": "shifted"}, DomainError, r"phantom_000.* their spacings"),
        ({"previous": "few", "previous_model": "low"}, ModelError, "not both"),
    ],
)
def test_previous_segmentations_that_cannot_be_used_are_named(
    bench: Bench, tmp_path: Path, given: dict[str, str], error: type[DomainError], sentence: str
) -> None:
    name = f"{case_name(0)}.nii.gz"
    reference = read_labels(bench.raw / "labelsTr" / name, READER)
    for folder, spacing in (("few", (1.0, 1.0, 1.0)), ("shifted", (1.0, 1.0, 2.0))):
        (tmp_path / folder).mkdir()
        geometry = reference.geometry.model_copy(
            update={"file_spacing_xyz": spacing, "spacing": spacing[::-1]}
        )
        names = [name] if folder == "few" else [f"{case_name(number)}.nii.gz" for number in range(4)]
        for one in names:
            write_labels(replace(reference, geometry=geometry), tmp_path / folder / one, READER)
    paths: dict[str, Any] = {
        key: bench.low if value == "low" else tmp_path / value for key, value in given.items()
    }

    with pytest.raises(error, match=sentence):
        pipeline.predict_folder(
            bench.cascade, bench.raw / "imagesTr", tmp_path / "out", OPTIONS, SilentObserver(), **paths
        )


def test_a_case_that_the_next_grid_cannot_hold_is_left_out_and_said(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coarse = bench.plan.configurations[FULL] | {"spacing": [1000.0, 1.0, 1.0]}
    plan = bench.plan.model_copy(update={"configurations": bench.plan.configurations | {FULL: coarse}})

    train(order_of(bench.raw, plan, LOW, tmp_path / "low"))

    assert (tmp_path / "low/fold_0/validation/summary.json").is_file()
    assert not (tmp_path / "low/predicted_next_stage").exists()
    said = [record for record in caplog.records if record.message == "not segmented for the next stage"]
    assert [record.__dict__["case"] for record in said] == [case_name(0), case_name(2)]
    assert "of which nothing could be learnt" in said[0].__dict__["reason"]


def test_a_later_stage_that_can_have_no_folder_is_refused_before_training(
    bench: Bench, tmp_path: Path
) -> None:
    configurations = bench.plan.configurations | {"../up": bench.plan.configurations[FULL]}
    plan = bench.plan.model_copy(update={"configurations": configurations})

    with pytest.raises(PlanError, match=r"'\.\./up' must be named so that a folder can have the name"):
        train(order_of(bench.raw, plan, LOW, tmp_path / "low"))
    assert not (tmp_path / "low").exists()


@pytest.mark.parametrize("augmentation", ["default", "strong"])
def test_regions_of_a_cascade_see_labels_and_an_ignore_label_is_none(
    tmp_path: Path, augmentation: str
) -> None:
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    recipe = Recipe(cases=2, shape=(12, 16, 14), labels=labels, region_order=(1, 2))
    raw, plan, low, full = (
        dataset(tmp_path / "raw", recipe),
        cascade_plan(),
        tmp_path / "low",
        tmp_path / "full",
    )
    for fold in (0, 1):
        train(order_of(raw, plan, LOW, low, fold))

    report = train(
        order_of(raw, plan, FULL, full, 0, augmentation=augmentation, iterations_per_epoch=4),
        previous=(next_stage_folder(low, FULL),),
        previous_model=low,
    )

    weights = load_file(full / "fold_0/weights.safetensors")
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 1 + 2
    assert len(report.mean) == 2
    done = pipeline.predict_folder(full, raw / "imagesTr", tmp_path / "out", OPTIONS, SilentObserver())
    assert done.segmented == 2


def test_a_third_stage_refines_the_second(bench: Bench, tmp_path: Path) -> None:
    third = "3d_third"
    configurations = bench.plan.configurations | {
        third: {"inherits_from": "3d_fullres", "previous_stage": FULL}
    }
    plan = bench.plan.model_copy(update={"configurations": configurations})
    arrays = bench.cascade / "preprocessed" / FULL
    for fold in (0, 1):
        train(
            order_of(bench.raw, plan, FULL, tmp_path / "second", fold),
            previous=(bench.handed_on,),
            previous_model=bench.low,
            preprocessed=arrays,
        )

    train(
        order_of(bench.raw, plan, third, tmp_path / "third"),
        previous=(next_stage_folder(tmp_path / "second", third),),
        previous_model=tmp_path / "second",
        preprocessed=arrays,
    )

    assert (tmp_path / "third/previous/previous/model.json").is_file()
    loaded = pipeline.load(tmp_path / "third", OPTIONS)
    assert isinstance(loaded, LoadedModel)
    assert loaded.previous is not None
    assert loaded.previous.previous is not None
    image = [bench.raw / "imagesTr" / f"{case_name(0)}_0000.nii.gz"]
    done = pipeline.predict_files(
        loaded, image, pipeline.PredictionFiles(tmp_path / "out.nii.gz"), SilentObserver(), OPTIONS
    )
    assert done.provenance["previous"] == {"configuration": FULL, "folds": [0, 1]}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
