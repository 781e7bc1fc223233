"""`import-model` and `export-model` as a user types them."""

from pathlib import Path

import pytest

from core.__main__ import main
from tests.core.exchange.official import results, zipped


def test_a_model_goes_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = zipped(tmp_path / "official.zip", results(folds=[0, 1]) | results("3d_lowres", [0]))
    out, packed = tmp_path / "model", tmp_path / "again.zip"

    first = main(
        ["import-model", str(source), "--out", str(out), "--configuration", "3d_fullres", "--folds", "1"]
    )
    second = main(["export-model", str(out), "--out", str(packed)])
    third = main(["export-model", str(out), "--out", str(tmp_path / "ours.zip"), "--format", "ours"])
    said = capsys.readouterr().out.splitlines()

    assert (first, second, third) == (0, 0, 0)
    assert said[0] == f"3d_fullres in {out}, fold 1"
    assert said[1] == f"5 files in {packed}"
    assert (out / "fold_1/weights.safetensors").is_file()


def test_what_is_refused_ends_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = zipped(tmp_path / "official.zip", results(folds=[0]) | {"../x": b""})

    status = main(["import-model", str(source), "--out", str(tmp_path / "model")])
    said = capsys.readouterr()

    assert status == 1
    assert said.out == ""
    assert said.err == "the archive holds a file with an unsafe name, '../x'; rename it\n"


@pytest.mark.parametrize("source", ["nowhere.zip", "text.zip"])
def test_a_source_that_is_no_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    (tmp_path / "text.zip").write_text("text")

    status = main(["import-model", str(tmp_path / source), "--out", str(tmp_path / "model")])

    assert status == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
