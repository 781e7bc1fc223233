import json
import pickle
import pickletools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.__main__ import main
from core.domain.dataset import DatasetDescription
from core.domain.postprocessing import Postprocessing
from core.domain.progress import SilentObserver
from core.errors import DatasetError, ModelError
from core.evaluation.evaluate import read_summary
from core.io.readers import read_header, read_labels
from core.pipeline.postprocessing import determine_postprocessing, postprocess, read_postprocessing
from tests.core.pipeline.results import LABELS, READER, describe, rows, save_labels

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/evaluation_goldens/dev/postprocessing"
DESCRIPTION = DatasetDescription.model_validate(
    {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
)
REGIONS = DESCRIPTION.model_copy(
    update={"labels": {"background": 0, "whole": (1, 2), "core": (2,)}, "regions_class_order": (1, 2)}
)
IGNORING = DESCRIPTION.model_copy(update={"labels": {**LABELS, "ignore": 3}})
MODULE = b"nnunetv2.postprocessing.remove_connected_components"
FUNCTION = b"remove_all_but_largest_component_from_segmentation"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Segmentations of which label 1 has a second, wrong component."""
    save_labels(rows("11100010", "00000000", "00002222"), tmp_path / "found", "c0")
    save_labels(rows("11100000", "00000000", "00002222"), tmp_path / "true", "c0")
    describe(tmp_path / "found")
    return tmp_path / "found"


def _determined(
    tmp_path: Path, description: DatasetDescription = DESCRIPTION
) -> tuple[list[tuple[str, bool]], Postprocessing]:
    determined = determine_postprocessing(
        tmp_path / "found", tmp_path / "true", tmp_path / "out", description, SilentObserver(), workers=1
    )
    assert read_postprocessing(tmp_path / "out/postprocessing.json") == determined.postprocessing
    return [(trial.scored, trial.accepted) for trial in determined.trials], determined.postprocessing


def test_what_helps_one_label_and_harms_another_is_kept_for_the_one(folder: Path, tmp_path: Path) -> None:
    trials, postprocessing = _determined(tmp_path)

    assert trials == [("foreground_mean", False), ("1", True), ("2", False)]
    assert postprocessing.keep_largest == ((1,),)
    assert read_labels(tmp_path / "out/c0.nii.gz", READER).labels_zyx.tolist() == (
        read_labels(tmp_path / "true/c0.nii.gz", READER).labels_zyx.tolist()
    )
    assert read_header(tmp_path / "out/c0.nii.gz").geometry == read_header(folder / "c0.nii.gz").geometry
    assert read_summary(tmp_path / "out/summary.json").foreground_mean.dice == 1


def test_what_helps_all_together_comes_first(tmp_path: Path) -> None:
    save_labels(rows("11220010", "00000000", "00000002"), tmp_path / "found", "c0")
    save_labels(rows("11220000", "00000000", "00000000"), tmp_path / "true", "c0")

    trials, postprocessing = _determined(tmp_path)

    assert trials == [("foreground_mean", True), ("1", False), ("2", False)]
    assert postprocessing.keep_largest == ((1, 2),)


def test_regions_are_tried_one_after_the_other_whatever_becomes_of_others(tmp_path: Path) -> None:
    # Of the whole, a wrong part and a core are removed; afterwards there is no second core to remove.
    save_labels(rows("111000100", "000000000", "000000002"), tmp_path / "found", "c0")
    save_labels(rows("111000000", "000000000", "000000002"), tmp_path / "true", "c0")

    trials, postprocessing = _determined(tmp_path, REGIONS)

    assert trials[0] == ("foreground_mean", False)
    assert trials[1:] == [("(1, 2)", False), ("(2,)", False)]
    save_labels(rows("111001010", "000000000", "000000002"), tmp_path / "found", "c0")
    trials, postprocessing = _determined(tmp_path, REGIONS)
    assert trials[1:] == [("(1, 2)", True), ("(2,)", False)]
    assert postprocessing.keep_largest == ((1, 2),)
    assert read_summary(tmp_path / "out/summary.json").mean["(2,)"].dice == 0


def test_a_label_that_no_case_has_blocks_no_other(tmp_path: Path) -> None:
    save_labels(rows("11100010"), tmp_path / "found", "c0")
    save_labels(rows("11100000"), tmp_path / "true", "c0")

    trials, postprocessing = _determined(tmp_path)

    assert trials == [("foreground_mean", False), ("1", True), ("2", False)]  # Its mean is undefined.
    assert postprocessing.keep_largest == ((1,),)


def test_voxels_that_nobody_annotated_decide_nothing(tmp_path: Path) -> None:
    save_labels(rows("11100010", "00000000", "00002222"), tmp_path / "found", "c0")
    save_labels(rows("11100030", "00000000", "00002222"), tmp_path / "true", "c0")

    trials, postprocessing = _determined(tmp_path, IGNORING)

    assert not any(accepted for _, accepted in trials)
    assert postprocessing.keep_largest == ()


def test_nothing_to_find_changes_nothing(tmp_path: Path) -> None:
    for folder in ("found", "true"):
        save_labels(rows("00000000"), tmp_path / folder, "c0")

    trials, postprocessing = _determined(tmp_path)

    assert not any(accepted for _, accepted in trials)
    assert postprocessing == Postprocessing()


def test_a_folder_is_postprocessed_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pp.json").write_text('{"version": 1, "keep_largest": [[1]]}')

    program = (
        "import sys; from core.__main__ import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    )
    words = ["--input", folder, "--out", tmp_path / "out", "--postprocessing", tmp_path / "pp.json"]
    done = subprocess.run(
        [sys.executable, "-c", program, "postprocess", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "kept only the largest component of label 1\n"), done.stderr
    assert read_labels(tmp_path / "out/c0.nii.gz", READER).labels_zyx[0, 0].tolist() == [
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        0,
    ]


def test_postprocessing_is_found_on_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["postprocess", "--input", folder, "--out", tmp_path / "out", "--references", tmp_path / "true"]

    assert main([str(word) for word in words]) == 0

    said = capfd.readouterr().out
    assert "label 1: Dice 0.8571 -> 1.0000, accepted" in said
    assert main([str(word) for word in words[:-2]]) == 1
    assert "--postprocessing" in capfd.readouterr().err


def test_what_cannot_be_postprocessed_is_refused(folder: Path, tmp_path: Path) -> None:
    known = Postprocessing(keep_largest=((7,),))

    with pytest.raises(ModelError, match="labels 7"):
        postprocess(folder, tmp_path / "out", known, DESCRIPTION, SilentObserver())
    for one, out, sentence in (
        (folder, folder, "would be lost"),
        (tmp_path, tmp_path / "out", "nothing to postprocess"),
        (tmp_path / "lost", tmp_path / "out", "no folder"),
    ):
        with pytest.raises(DatasetError, match=sentence):
            postprocess(one, out, Postprocessing(), DESCRIPTION, SilentObserver())


@pytest.mark.parametrize("labels", [b"I1\n", b"(I1\nI2\nt", b"(lI1\naI2\na", b"(l(I1\nI2\nta"])
def test_the_pickle_of_the_reference_is_read_without_running_it(tmp_path: Path, labels: bytes) -> None:
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(b"((lc" + MODULE + b"\n" + FUNCTION + b"\na(l(dVlabels_or_regions\n" + labels + b"sat.")
    assert list(pickletools.genops(path.read_bytes()))

    assert read_postprocessing(path).keep_largest in {((1,),), ((1, 2),)}


@pytest.mark.parametrize("labels", [np.int64(2), [np.int64(1), np.int64(2)], [(np.int64(1), 2)]])
def test_numbers_of_numpy_are_labels_too(tmp_path: Path, labels: object) -> None:
    named = b"c" + MODULE + b"\n" + FUNCTION + b"\n"
    given = pickle.dumps([{"labels_or_regions": labels}], protocol=3)
    (tmp_path / "postprocessing.pkl").write_bytes(b"((l" + named + b"a" + given[2:-1] + b"t.")

    assert read_postprocessing(tmp_path / "postprocessing.pkl").keep_largest in {((2,),), ((1, 2),)}


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(Vtouch ran\ntR.",
        b"((lcos\nsystem\na(l(dtat.",
        b"((lc" + MODULE + b"\nload_json\na(l(dtat.",
        b"(lI1\na.",
        b"((lI1\na(l(dat.",
        b"((lc" + MODULE + b"\n" + FUNCTION + b"\na(l(dVlabels_or_regions\n(lp0\ng0\nasat.",
        b"((lc" + MODULE + b"\n" + FUNCTION + b"\na(l(dVlabels_or_regions\ncnumpy\nndarray\nsat.",
        b"garbage",
        b"",
    ],
)
def test_a_pickle_that_names_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(content)

    with pytest.raises(ModelError, match="postprocessing"):
        read_postprocessing(path)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["labels", "regions"])
def test_recorded_postprocessing_is_reproduced(tmp_path: Path, name: str) -> None:
    recorded = GOLDENS / name
    if not recorded.is_dir():
        pytest.skip("the reference's recorded postprocessing (../shared) is absent")
    found = tmp_path / "pred"
    found.mkdir()
    for path in recorded.glob("pred/*.nii.gz"):
        shutil.copy(path, found)
    common = ["postprocess", "--input", str(found), "--dataset-json", str(recorded / "dataset.json")]

    determined = main(
        [*common, "--out", str(tmp_path / "out"), "--references", str(recorded / "ref"), "--workers", "1"]
    )
    theirs = recorded / "pred/postprocessing.json"
    applied = main([*common, "--out", str(tmp_path / "applied"), "--postprocessing", str(theirs)])

    assert (determined, applied) == (0, 0)
    assert read_postprocessing(tmp_path / "out/postprocessing.json") == read_postprocessing(theirs)
    means = json.loads(theirs.read_text())["postprocessed"]
    report = read_summary(tmp_path / "out/summary.json").to_json()
    for key, scores in (means["mean"] | {"": means["foreground_mean"]}).items():
        assert (report["mean"][key] if key else report["foreground_mean"]) == pytest.approx(scores, abs=1e-9)
    for path in sorted(recorded.glob("pred/postprocessed/*.nii.gz")):
        expected = read_labels(path, READER)
        for folder in ("out", "applied"):
            label_map = read_labels(tmp_path / folder / path.name, READER)
            assert (label_map.labels_zyx == expected.labels_zyx).all()
            assert label_map.geometry == expected.geometry
