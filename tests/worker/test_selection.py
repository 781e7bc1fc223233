"""What the last job of a training makes of what the folds left: real files in a real store, no network."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from app.payloads import VALIDATED_FILE, ObjectRef, SelectPayload, SelectResult, TrainResult, WorkOrder
from app.storage import LocalStore
from core.domain.ensemble import ENSEMBLE_FILE
from core.domain.progress import SilentObserver
from core.domain.record import write_json
from core.domain.selection import SELECTION_FILE, Selection
from core.errors import DatasetError
from core.io.archive import ArchiveLimits
from core.io.image import LabelArray
from tests.core.pipeline.results import describe, one_hot, rows, save_labels, save_probabilities
from tests.plans import small_plan
from worker.packing import bring_unpacked, pack
from worker.selection import select
from worker.workspace import Workspace

TRUE = [rows("11100000", "00002222"), rows("11110000", "00000222"), rows("01110000", "00000022")]
POOR, OTHER = ([np.where(labels == missed, 0, labels) for labels in TRUE] for missed in (2, 1))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    limits = ArchiveLimits(files=100, unpacked_bytes=10**7, ratio=1000)
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), limits)


class Bench:
    """Trained folds in a store, and the job that chooses among them."""

    def __init__(self, workspace: Workspace, place: Path) -> None:
        self.workspace, self.place = workspace, place
        self.trained: list[TrainResult] = []
        describe(place / "dataset")
        for number, labels in enumerate(TRUE):
            save_labels(labels, place / "dataset/imagesTr", f"c{number}_0000")
            save_labels(labels, place / "dataset/labelsTr", f"c{number}")
        (place / "dataset/plans.json").unlink()
        archive = Path(shutil.make_archive(str(place / "dataset"), "zip", place / "dataset"))
        plan = small_plan((1, 1, 1))[0].to_json()
        plan["configurations"] |= dict.fromkeys(("one", "two", "three"), plan["configurations"]["small"])
        plan["configurations"]["three"] = plan["configurations"]["three"] | {"previous_stage": "one"}
        write_json(place / "plans.json", plan)
        self.payload = SelectPayload(
            training_id=uuid4(),
            archive=self.stored(archive),
            plans=self.stored(place / "plans.json"),
            fingerprint=self.stored(place / "plans.json"),
        )

    def stored(self, file: Path) -> ObjectRef:
        copy = shutil.copyfile(file, file.with_name(f".{uuid4()}"))
        return self.workspace.store.put(f"tests/{uuid4()}", copy)  # Which takes the file away.

    def add(
        self,
        name: str,
        fold: int | str,
        segmented: Sequence[LabelArray] | None,
        label: int = 0,
        cases: Sequence[int] = (0, 1, 2),
    ) -> None:
        """A fold that validated some cases, with probabilities that are sure of one label; or none."""
        model = self.place / f"{name}-{fold}"
        folder = model / f"fold_{fold}"
        shown = {number: labels for number, labels in enumerate(segmented or ()) if number in cases}
        for number, labels in shown.items():
            save_labels(labels, folder / "validation", f"c{number}")
            save_labels(TRUE[number], model / "gt_segmentations", f"c{number}")
            if label:
                sure = (one_hot(labels, 0.5), one_hot(labels, 1.0))
                save_probabilities(
                    np.where(labels == label, sure[1], sure[0]), folder / "validation", f"c{number}"
                )
        folder.mkdir(parents=True, exist_ok=True)
        record = {"version": 1, "configuration": name, "mirror_axes": [], "settings": {}}
        write_json(model / "model.json", record)
        (folder / "weights.safetensors").write_text(f"{name} {fold}")
        files = {"model.json": model / "model.json", "weights.safetensors": folder / "weights.safetensors"}
        if segmented:
            shutil.make_archive(str(self.place / "validated"), "zip", model)
            files[VALIDATED_FILE] = self.place / "validated.zip"
        self.trained.append(
            TrainResult.model_validate(
                {
                    "files": {key: self.stored(file).to_json() for key, file in files.items()},
                    "configuration": name,
                    "fold": fold,
                    "mean_dice": 0.5 if segmented else None,
                    "validation": [{"case": f"c{number}", "dice": {"a": 0.5}} for number in shown],
                }
            )
        )

    def select(self, **changes: object) -> tuple[SelectResult, dict[str, bytes]]:
        """Choose; return the result, and the bytes of the files of the model by path."""
        payload = self.payload.model_copy(update=changes)
        order = WorkOrder(job_id=uuid4(), fence=1, payload=payload, trained=tuple(self.trained))
        message = select(order, payload, self.workspace, SilentObserver(), workers=1)
        result = SelectResult.model_validate(message["result"])
        files = {path: self.workspace.store.path(ref).read_bytes() for path, ref in result.reused.items()}
        made = [Path(message["files"][str(number)]).read_bytes() for number in range(len(result.paths))]
        return result, files | dict(zip(result.paths, made, strict=True))


@pytest.fixture
def bench(workspace: Workspace, tmp_path: Path) -> Bench:
    return Bench(workspace, tmp_path)


def test_the_best_configuration_becomes_the_model_with_its_reasons(bench: Bench) -> None:
    bench.add("one", 0, POOR, label=1)
    bench.add("two", 0, TRUE, label=1)

    result, files = bench.select(ensembling=True)

    assert (result.configuration, result.folds, result.mean_dice) == ("two", (0,), 1.0)
    selection = Selection.parse(files[SELECTION_FILE])
    assert [one.name for one in selection.candidates] == ["one", "two", "one + two"]
    assert [one.dice for one in selection.candidates][:2] == [0.5, 1.0]
    assert result.reason == selection.reason
    assert files["fold_0/weights.safetensors"] == b"two 0"
    assert result.reused["fold_0/weights.safetensors"] == bench.trained[1].files["weights.safetensors"]
    assert {"plans.json", "model.json"} <= set(result.reused)
    assert {"dataset.json", "postprocessing.json", "provenance.json"} <= set(result.paths)
    assert VALIDATED_FILE not in files
    weights = json.loads(files["provenance.json"])["weights_sha256"]
    assert weights == {"fold_0": bench.trained[1].files["weights.safetensors"].sha256}


def test_an_ensemble_becomes_one_model_of_both(bench: Bench) -> None:
    bench.add("one", 0, POOR, label=1)
    bench.add("two", 0, OTHER, label=2)

    result, files = bench.select(ensembling=True)

    assert (result.configuration, result.mean_dice) == ("one+two", 1.0)
    assert json.loads(files[ENSEMBLE_FILE])["members"] == ["one", "two"]
    assert files["members/two/fold_0/weights.safetensors"] == b"two 0"
    assert "members/one/plans.json" in result.reused


def test_without_ensembles_no_probabilities_are_needed(bench: Bench) -> None:
    bench.add("one", 0, POOR)
    bench.add("two", 0, OTHER)

    result, _ = bench.select()

    assert (result.configuration, result.mean_dice) == ("one", 0.5)


def test_the_fold_of_all_cases_is_kept_beside_those_that_were_compared(bench: Bench) -> None:
    bench.add("one", 0, TRUE)
    bench.add("one", "all", None)

    result, files = bench.select()

    assert (result.folds, result.mean_dice) == ((0, "all"), 1.0)
    assert files["fold_all/weights.safetensors"] == b"one all"


def test_a_fold_of_all_cases_alone_is_taken_without_comparison(bench: Bench) -> None:
    bench.add("one", "all", None)
    bench.add("two", "all", None)

    result, files = bench.select()

    assert (result.configuration, result.folds, result.mean_dice) == ("one", ("all",), None)
    assert "one not measured, two not measured" in result.reason
    assert files["fold_all/weights.safetensors"] == b"one all"


def test_a_stage_that_only_others_need_is_part_of_theirs(bench: Bench) -> None:
    bench.add("one", 0, TRUE)
    bench.add("one", 1, None)
    bench.add("three", 0, POOR)

    result, files = bench.select(configurations=("three",), previous_stages={"three": "one"})

    assert result.configuration == "three"
    assert files["previous/fold_1/weights.safetensors"] == b"one 1"
    assert (
        result.reused["previous/fold_0/weights.safetensors"] == bench.trained[0].files["weights.safetensors"]
    )


def test_all_folds_of_a_configuration_are_compared_together(bench: Bench) -> None:
    for name, segmented in (("one", POOR), ("two", TRUE)):
        bench.add(name, 0, segmented, cases=(0, 2))
        bench.add(name, 1, segmented, cases=(1,))

    result, files = bench.select()

    selection = Selection.parse(files[SELECTION_FILE])
    assert (selection.folds, selection.cases, selection.winner) == ((0, 1), 3, ("two",))
    assert result.folds == (0, 1)
    assert files["fold_1/weights.safetensors"] == b"two 1"


def test_of_folds_that_share_cases_the_first_is_compared_and_all_are_kept(bench: Bench) -> None:
    bench.add("one", 0, TRUE, cases=(0, 1))
    bench.add("one", 5, TRUE, cases=(1, 2))

    result, files = bench.select()

    assert Selection.parse(files[SELECTION_FILE]).folds == (0,)
    assert "fold 5 was not compared, since it validated cases of another one" in result.reason
    assert result.folds == (0, 5)
    assert files["fold_5/weights.safetensors"] == b"one 5"


def test_an_ensemble_has_the_folds_that_all_members_have(bench: Bench) -> None:
    bench.add("one", 0, POOR, label=1)
    bench.add("one", 1, None)
    bench.add("two", 0, OTHER, label=2)

    result, files = bench.select(ensembling=True)

    assert (result.configuration, result.folds) == ("one+two", (0,))
    assert files["members/one/fold_1/weights.safetensors"] == b"one 1"


def test_what_cannot_be_compared_is_named_by_its_configuration(bench: Bench) -> None:
    bench.add("one", 0, POOR)
    bench.add("two", 0, OTHER)

    with pytest.raises(
        DatasetError, match=r"^one lacks probabilities of the validation cases c0, c1, c2; two lacks"
    ):
        bench.select(ensembling=True)


def test_names_with_two_points_are_unpacked(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "folder/sub").mkdir(parents=True)
    (tmp_path / "folder/sub/c..0.nii.gz").write_bytes(b"labels")
    packed = pack(tmp_path / "folder", (tmp_path / "folder").rglob("*"), tmp_path / "packed.zip")
    ref = workspace.store.put("tests/packed", packed)

    bring_unpacked(ref, tmp_path / "there", workspace, SilentObserver())

    assert (tmp_path / "there/sub/c..0.nii.gz").read_bytes() == b"labels"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["sub"]
