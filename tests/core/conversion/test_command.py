from pathlib import Path

import pytest

from core import __main__ as command_line
from tests.core.conversion.converting import files_below
from tests.factories import Recipe, case_name, make_dataset


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def test_the_command_converts(decathlon: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "--from", decathlon, "--out", target) == 0

    assert "3 training cases and 0 others of Medical Segmentation Decathlon" in capsys.readouterr().out
    assert run("verify", "--raw", target) == 0


def test_the_command_says_what_is_wrong(
    decathlon: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (decathlon / "labelsTr" / f"{case_name(1)}.nii.gz").unlink()

    assert run("convert", "--from", decathlon, "--out", target) == 1

    told = capsys.readouterr()
    assert "phantom_001: missing-label: labelsTr has no phantom_001.nii.gz" in told.out
    assert "1 problems found" in told.err
    assert not target.exists()


@pytest.mark.parametrize("what", ["absent", "file", "empty", "v2", "taken", "unwritable"])
def test_a_mistake_ends_in_one_sentence(
    decathlon: Path, target: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    sources = {"absent": tmp_path / "absent", "file": tmp_path / "file", "empty": tmp_path / "empty"}
    sources["v2"] = make_dataset(tmp_path / "v2", Recipe(cases=1))
    targets = {"taken": decathlon, "unwritable": tmp_path / "file" / "x"}

    status = run("convert", "--from", sources.get(what, decathlon), "--out", targets.get(what, target))

    told = capsys.readouterr()
    assert (status, told.out) == (1, "")
    assert len(" ".join(told.err.split())) > 20
    assert not target.exists()


@pytest.mark.parametrize("inside", [".", "new", "imagesTr/new"])
def test_the_command_never_converts_a_dataset_into_itself(
    decathlon: Path, inside: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files_below(decathlon)

    assert run("convert", "--from", decathlon, "--out", decathlon / inside) == 1
    assert "within the dataset that is converted" in capfd.readouterr().err
    assert files_below(decathlon) == before
