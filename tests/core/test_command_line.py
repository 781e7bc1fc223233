"""The engine's command line from a raw dataset to scores, and what each verb says to a mistake."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from core import __main__ as command_line
from core.io.image import Geometry
from core.io.readers import read_header
from tests.factories import STANDARD, make_dataset

TORCH_FREE = ("verify", "fingerprint", "plan", "preprocess", "evaluate")


@dataclass(frozen=True)
class Bench:
    """A dataset and everything that the verbs made of it."""

    raw: Path
    plans: Path
    fingerprint: Path
    model: Path
    predictions: Path


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    made = Bench(
        folder / "raw", folder / "plans.json", folder / "f.json", folder / "model", folder / "predictions"
    )
    make_dataset(made.raw, replace(STANDARD, cases=5), held_out=1)
    description = made.raw / "dataset.json"
    assert run("fingerprint", "--raw", made.raw, "--out", made.fingerprint) == 0
    plan = ("plan", "--dataset-json", description, "--fingerprint", made.fingerprint, "--out", made.plans)
    assert run(*plan, "--reader", "SimpleITKIO") == 0
    train = ("train", "--raw", made.raw, "--plans", made.plans, "--configuration", "3d_fullres")
    short = ("--epochs", 2, "--iterations-per-epoch", 2, "--out", made.model)
    assert run(*train, *short) == 0
    predict = ("predict", "--model", made.model, "--input", made.raw / "imagesTs")
    assert run(*predict, "--out", made.predictions) == 0
    return made


def test_verify_accepts_a_sound_dataset(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    status = run("verify", "--raw", bench.raw)

    assert status == 0
    assert "5 cases, no problem found" in capsys.readouterr().out


def test_a_trained_model_is_a_complete_folder(bench: Bench) -> None:
    names = {path.name for path in bench.model.iterdir()} | {
        path.name for path in (bench.model / "fold_0").iterdir()
    }

    assert {"dataset.json", "plans.json", "model.json"} <= names
    assert {"weights.safetensors", "fold.json", "epochs.jsonl", "progress.png", "validation"} <= names


def test_every_epoch_stands_once_in_the_log(bench: Bench) -> None:
    lines = (bench.model / "fold_0" / "epochs.jsonl").read_text().splitlines()

    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_a_finished_training_is_not_trained_again_but_may_be_looked_at(bench: Bench, tmp_path: Path) -> None:
    weights = bench.model / "fold_0" / "weights.safetensors"
    before = weights.read_bytes()

    status = run(
        "train", "--raw", bench.raw, "--plans", bench.plans, "--configuration", "3d_fullres",
        "--epochs", 2, "--iterations-per-epoch", 2, "--out", bench.model, "--tensorboard", tmp_path,
    )  # fmt: skip

    assert status == 0
    assert weights.read_bytes() == before
    assert [path.parent.relative_to(tmp_path) for path in tmp_path.rglob("events.*")] == [
        Path("3d_fullres/fold_0")
    ]


def test_a_prediction_lies_where_its_image_lies(bench: Bench) -> None:
    predicted = sorted(bench.predictions.glob("*.nii.gz"))
    image = _geometry(next(iter(sorted((bench.raw / "imagesTs").iterdir()))))

    assert len(predicted) == 1
    assert _geometry(predicted[0]) == image


def test_evaluate_writes_the_summary_that_others_read(bench: Bench, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"

    status = run(
        "evaluate", "--predictions", bench.raw / "labelsTr", "--references", bench.raw / "labelsTr",
        "--dataset-json", bench.raw / "dataset.json", "--out", summary,
    )  # fmt: skip

    assert status == 0
    assert json.loads(summary.read_text())["foreground_mean"]["Dice"] == 1.0


def test_any_memory_that_the_service_plans_for_can_be_given(bench: Bench, tmp_path: Path) -> None:
    plan = ("plan", "--dataset-json", bench.raw / "dataset.json", "--fingerprint", bench.fingerprint)

    assert run(*plan, "--out", tmp_path / "small.json", "--gpu-memory-gb", 0.03) == 0
    assert run(*plan, "--out", tmp_path / "large.json", "--gpu-memory-gb", 1000) == 0


def test_preprocess_stores_every_case_once(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    command = (
        "preprocess", "--raw", bench.raw, "--plans", bench.plans,
        "--configuration", "2d", "--out", tmp_path / "store",
    )  # fmt: skip

    statuses = [run(*command), run(*command)]

    assert statuses == [0, 0]
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".npz"] * 5
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("5 cases preprocessed in ")
    assert said[1].startswith("0 cases preprocessed in ")
    assert said[1].endswith("5 kept as they were")


def test_preprocess_names_the_cases_without_a_label_file(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(bench.raw, raw)
    (raw / "labelsTr/phantom_003.nii.gz").unlink()
    command = ("preprocess", "--raw", raw, "--plans", bench.plans, "--configuration", "2d")

    assert run(*command, "--out", tmp_path / "store") == 0

    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("5 cases preprocessed in ")
    assert said[1:] == [
        "note: 1 case has no label file and can only be predicted, not trained with: phantom_003"
    ]


def test_preprocess_names_every_case_that_fails(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(bench.raw, raw)
    for number in (1, 3):
        (raw / f"imagesTr/phantom_00{number}_0000.nii.gz").write_bytes(b"nothing")

    status = run(
        "preprocess",
        "--raw",
        raw,
        "--plans",
        bench.plans,
        "--configuration",
        "2d",
        "--out",
        tmp_path / "store",
    )

    assert status == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "2 of 5 cases cannot be preprocessed: case phantom_001: " in said
    assert "(likewise phantom_003)" in said
    assert "Traceback" not in said
    assert len(list((tmp_path / "store").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verify", "--raw", "nowhere"], "dataset.json"),
        (
            ["plan", "--dataset-json", "no.json", "--fingerprint", "no.json", "--out", "p"],
            "cannot read no.json",
        ),
        (["predict", "--model", "nowhere", "--input", ".", "--out", "o"], "there is no model at nowhere"),
        (["train", "--raw", ".", "--plans", "no.json", "--configuration", "2d", "--out", "m"], "no.json"),
    ],
)
def test_a_mistake_gets_one_sentence_and_status_1(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)

    status = run(*arguments)
    said = capfd.readouterr().err

    assert status == 1
    assert sentence in said
    assert "Traceback" not in said


def test_an_unknown_configuration_names_those_there_are(bench: Bench, capfd: Any, tmp_path: Path) -> None:
    status = run(
        "preprocess", "--raw", bench.raw, "--plans", bench.plans, "--configuration", "4d", "--out", tmp_path
    )

    assert status == 1
    assert "3d_fullres" in capfd.readouterr().err


@pytest.mark.parametrize("fold", ["x", "-1"])
def test_a_wrong_fold_is_refused(bench: Bench, fold: str, capfd: Any, tmp_path: Path) -> None:
    status = run(
        "train", "--raw", bench.raw, "--plans", bench.plans, "--configuration", "2d",
        "--out", tmp_path, "--fold", fold,
    )  # fmt: skip

    assert status == 1
    assert "no fold" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "No such command 'fly'"),
        (["plan"], "Missing option '--dataset-json'"),
        (["verify", "--raw"], "--raw"),
        (["fingerprint", "--raw", ".", "--out", "f", "--workers", "0"], "--workers"),
    ],
)
def test_a_usage_error_is_one_sentence_too(arguments: list[str], sentence: str, capfd: Any) -> None:
    assert run(*arguments) == 1

    said = capfd.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_no_verb_at_all_shows_the_help(capfd: Any) -> None:
    assert run() == 0
    assert "preprocess" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"transpose_forward": [0, 0, 1]}, "no order of the axes"),
        ({"transpose_forward": [1, 0, 2]}, "does not undo"),
        ({"3d_fullres": {"spacing": [1.0, 1.0]}}, "spacing: has 2 entries"),
        ({"3d_fullres": {"use_mask_for_norm": []}}, "one per channel"),
        ({"3d_fullres": {"preprocessor_name": "Mine"}}, "DefaultPreprocessor"),
    ],
)
def test_a_plan_edited_wrongly_is_refused_before_anything_is_done(
    bench: Bench, tmp_path: Path, capfd: Any, entries: dict[str, Any], sentence: str
) -> None:
    values = json.loads(bench.plans.read_text())
    values["configurations"]["3d_fullres"] |= entries.pop("3d_fullres", {})
    edited = tmp_path / "plans.json"
    edited.write_text(json.dumps(values | entries))
    order = ("--raw", bench.raw, "--plans", edited, "--configuration", "3d_fullres", "--out", tmp_path / "o")

    for verb in ("preprocess", "train"):
        assert run(verb, *order) == 1
        assert sentence in capfd.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("memory", ["inf", "nan"])
def test_memory_is_a_number(bench: Bench, tmp_path: Path, capfd: Any, memory: str) -> None:
    order = ("--raw", bench.raw, "--plans", bench.plans, "--configuration", "2d", "--out", tmp_path / "o")

    assert run("preprocess", *order, "--memory-gb", memory) == 1
    assert "--memory-gb" in capfd.readouterr().err


@pytest.mark.parametrize("shape", ["0.5,2,2", "1e300,1,1", "0,1,1", "10,10", "10,10,100001", "a,b,c"])
def test_an_images_shape_is_whole_numbers(bench: Bench, capfd: Any, shape: str) -> None:
    assert run("explain", "--plans", bench.plans, "--image-shape", shape) == 1
    assert "three whole numbers of voxels" in capfd.readouterr().err


@pytest.mark.parametrize("reader", ["bogus", "NaturalImage2DIO"])
def test_a_reader_of_other_files_is_refused(bench: Bench, tmp_path: Path, capfd: Any, reader: str) -> None:
    status = run(
        "plan", "--dataset-json", bench.raw / "dataset.json", "--fingerprint", bench.fingerprint,
        "--out", tmp_path / "p.json", "--reader", reader,
    )  # fmt: skip

    assert status == 1
    assert "SimpleITKIO" in capfd.readouterr().err


@pytest.mark.parametrize("verb", TORCH_FREE)
def test_stages_without_a_network_leave_torch_out(verb: str, bench: Bench, tmp_path: Path) -> None:
    """Importing torch costs 1.6 s, and the planning image need not hold it."""
    raw, description = bench.raw, bench.raw / "dataset.json"
    plan = ("--dataset-json", description, "--fingerprint", bench.fingerprint, "--reader", "SimpleITKIO")
    preprocess = ("--raw", raw, "--plans", bench.plans, "--configuration", "3d_fullres")
    evaluate = ("--predictions", raw / "labelsTr", "--references", raw / "labelsTr")
    arguments = {
        "verify": ("--raw", raw),
        "fingerprint": ("--raw", raw, "--out", tmp_path / "f.json"),
        "plan": (*plan, "--out", tmp_path / "p.json"),
        "preprocess": (*preprocess, "--out", tmp_path / "store"),
        "evaluate": (*evaluate, "--dataset-json", description, "--out", tmp_path / "s.json"),
    }[verb]
    program = (
        "import sys; from core.__main__ import main; status = main(sys.argv[1:]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, verb, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def _geometry(path: Path) -> Geometry:
    return read_header(path).geometry


def trained(bench: Bench, out: Path, *more: object) -> list[object]:
    """A short training of the bench's plan."""
    return [
        "train", "--raw", bench.raw, "--plans", bench.plans, "--configuration", "3d_fullres", "--out", out,
        "--iterations-per-epoch", 2, *more,
    ]  # fmt: skip


def test_settings_come_from_a_file_and_options_go_before_it(bench: Bench, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"epochs": 5, "optimizer": "adamw", "loss": "ce", "mirror_axes": [0]}))

    assert run(*trained(bench, tmp_path / "model", "--settings", settings, "--epochs", 1)) == 0

    kept = json.loads((tmp_path / "model/model.json").read_text())
    assert (kept["settings"]["epochs"], kept["settings"]["optimizer"]) == (1, "adamw")
    assert kept["mirror_axes"] == [0]


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"epoch": 5, "loss": 3}, ("epoch: ", "loss: ", "settings are: augmentation, ")),
        ({"loss": "focal"}, ("no loss named 'focal'; choose one of: ce, dice",)),
        ({"augmentation": "wild"}, ("no augmentation named 'wild'",)),
        ({"mirror_axes": [3]}, ("mirror_axes.0: ", "2")),
    ],
)
def test_settings_that_cannot_be_are_named(
    bench: Bench, tmp_path: Path, values: dict[str, Any], sentences: tuple[str, ...], capfd: Any
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(values))

    assert run(*trained(bench, tmp_path / "model", "--settings", settings, "--epochs", 1)) == 1

    said = capfd.readouterr().err
    assert all(sentence in said for sentence in sentences), said
    assert "Traceback" not in said


def test_a_finished_training_is_continued_only_when_asked(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    model = tmp_path / "model"
    assert run(*trained(bench, model, "--epochs", 1)) == 0

    assert run(*trained(bench, model, "--epochs", 2)) == 1
    assert "epochs 1, now 2" in capfd.readouterr().err
    assert json.loads((model / "model.json").read_text())["settings"]["epochs"] == 1
    assert run(*trained(bench, model, "--epochs", 2, "--continue")) == 0
    assert len((model / "fold_0/epochs.jsonl").read_text().splitlines()) == 2


def test_cases_of_a_patient_are_kept_together(bench: Bench, tmp_path: Path, capfd: Any) -> None:
    patients, model = tmp_path / "patients.json", tmp_path / "model"
    patients.write_text(json.dumps({f"phantom_{number:03}": number for number in range(5)}))

    assert run(*trained(bench, model, "--epochs", 1, "--group-by", patients, "--fold", 3)) == 0

    kept = json.loads((model / "splits_final.json").read_text())
    assert json.loads((model / "fold_3/fold.json").read_text())["validation_cases"] == kept[3]["val"]
    capfd.readouterr()
    assert (
        run(*trained(bench, model, "--epochs", 1, "--splits", model / "splits_final.json", "--fold", 9)) == 0
    )
    assert run(*trained(bench, model, "--epochs", 1, "--group-by", "(1|2|3)$")) == 1
    assert "'(1|2|3)$' finds no patient in phantom_000, phantom_004" in capfd.readouterr().err
    both = ("--splits", model / "splits_final.json", "--group-by", "(.)$")
    assert run(*trained(bench, model, "--epochs", 1, *both)) == 1
    assert "contradict" in capfd.readouterr().err


def test_two_processes_train_and_validate_through_the_command_line(bench: Bench, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    verb = map(str, trained(bench, tmp_path / "model", "--epochs", 2))

    done = subprocess.run(
        [*launcher, "-m", "core", *verb], capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("mean foreground Dice") == 1
    summary = json.loads((tmp_path / "model/fold_0/validation/summary.json").read_text())
    assert len(summary["metric_per_case"]) == 1
    assert len((tmp_path / "model/fold_0/epochs.jsonl").read_text().splitlines()) == 2


def test_what_else_is_wanted_of_a_prediction_is_written_and_nothing_is_done_twice(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = (
        "predict",
        "--model",
        bench.model,
        "--input",
        bench.raw / "imagesTs",
        "--out",
        tmp_path / "out",
    )
    more = ("--save-probabilities", "--uncertainty", "--configuration", "3d_fullres", "--part", "1/1")

    assert run(*predict, *more) == 0
    first = capsys.readouterr()
    assert run(*predict, *more) == 0

    assert "1 cases segmented" in first.out
    assert first.err.count("device cpu: no GPU is there; precision ") == 1
    assert "0 cases segmented" in (again := capsys.readouterr().out)
    assert "1 were there already" in again
    assert {path.name for path in (tmp_path / "out").rglob("phantom_005*")} == {
        "phantom_005.nii.gz",
        "phantom_005.npz",
        "phantom_005.pkl",
        "phantom_005_uncertainty.nii.gz",
    }
    assert run(*predict, "--part", "0/2") == 1
    assert "write 1/3, 2/3 or 3/3" in capsys.readouterr().err


def test_a_damaged_image_is_named_and_the_status_tells(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(bench.raw / "imagesTs", images)
    (images / "broken_0000.nii.gz").write_bytes(b"nothing")

    status = run("predict", "--model", bench.model, "--input", images, "--out", tmp_path / "out")

    assert status == 1
    assert "1 of 2 cases could not be segmented: broken: broken_0000.nii.gz" in capsys.readouterr().err
    assert (tmp_path / "out/phantom_005.nii.gz").is_file()
