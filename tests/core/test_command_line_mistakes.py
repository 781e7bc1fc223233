"""What the command line says to odd input: one sentence that names the file or option, and exit status 1."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core import __main__ as command_line
from core.domain.progress import SilentObserver
from core.pipeline import PlanRequest, fingerprint, plan_dataset
from tests.factories import STANDARD, make_dataset

Say = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, its fingerprint and plans."""
    folder = tmp_path_factory.mktemp("made")
    make_dataset(folder / "raw", replace(STANDARD, cases=2))
    measured = fingerprint(folder / "raw", folder / "dataset_fingerprint.json", SilentObserver())
    plan_dataset(folder / "raw", measured, PlanRequest(), folder / "plans.json")
    return folder


@pytest.fixture
def say(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Say:
    """Run a verb that must be refused in one line; words may name {made} files. Return the line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        status = command_line.main([word.format(made=made) for word in words])
        said = capfd.readouterr().err
        assert status == 1
        assert said.count("\n") == 1
        assert "Traceback" not in said
        return said.strip()

    return run


RAW = ("--raw", "{made}/raw")
DESCRIPTION = ("--dataset-json", "{made}/raw/dataset.json")
FINGERPRINT = ("--fingerprint", "{made}/dataset_fingerprint.json")
PLANS = ("--plans", "{made}/plans.json")
PLAN = ("plan", *DESCRIPTION, *FINGERPRINT, "--out", "p.json")
LABELS = "{made}/raw/labelsTr"


@pytest.mark.parametrize(
    ("option", "given", "seems"),
    [
        ("--dataset-json", "{made}/plans.json", "a plans.json"),
        ("--dataset-json", "{made}/dataset_fingerprint.json", "a dataset_fingerprint.json"),
        ("--fingerprint", "{made}/raw/dataset.json", "a dataset.json"),
        ("--fingerprint", "{made}/plans.json", "a plans.json"),
    ],
)
def test_a_wrong_file_is_named_with_what_it_seems_to_be(
    say: Say, made: Path, option: str, given: str, seems: str
) -> None:
    said = say(*PLAN, option, given)

    assert said.startswith(f"{given.format(made=made)} seems to be {seems}, ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not a list"),
        ("5", "not a number"),
        ("null", "not null"),
        ("", "is empty"),
        ('{"labels": ', "not valid JSON"),
        ("{}", "lacks channel_names"),
    ],
)
def test_a_file_that_holds_something_else_is_named(say: Say, content: str, words: str) -> None:
    Path("ö d.json").write_text(content)

    said = say(*PLAN, "--dataset-json", "ö d.json")

    assert said.startswith("ö d.json ")
    assert words in said


@pytest.mark.parametrize("verb", ["explain", "preprocess", "train"])
def test_plans_are_never_another_file(say: Say, made: Path, verb: str) -> None:
    rest = () if verb == "explain" else (*RAW, "--configuration", "2d", "--out", "o")

    said = say(verb, "--plans", "{made}/raw/dataset.json", *rest)

    assert said.startswith(f"{made}/raw/dataset.json seems to be a dataset.json")
    assert not Path("o").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("fingerprint", *RAW, "--out"),
        ("verify", *RAW, "--json-report"),
        ("plan", *DESCRIPTION, *FINGERPRINT, "--out"),
        ("move-plans", *PLANS, *RAW, "--out"),
        ("evaluate", "--predictions", LABELS, "--references", LABELS, *DESCRIPTION, "--out"),
    ],
    ids=lambda words: words[0],
)
def test_a_result_that_cannot_be_written_is_refused_before_any_work(
    say: Say, tmp_path: Path, words: tuple[str, ...]
) -> None:
    Path("folder").mkdir()
    Path("file").write_text("")

    assert say(*words, "folder").startswith("folder: there is a folder; name a file")
    assert say(*words, "file/a.json").startswith("file/a.json: file is no folder")
    assert say(*words, "n" * 256).startswith("n" * 256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (("fingerprint", "--raw", "raw", "--out"), "raw/dataset.json"),
        (("verify", "--raw", "raw", "--json-report"), "raw/dataset.json"),
        ((*PLAN, "--dataset-json", "raw/dataset.json", "--out"), "raw/dataset.json"),
        ((*PLAN, "--fingerprint", "f.json", "--out"), "f.json"),
        (("move-plans", "--plans", "p.json", *RAW, "--out"), "p.json"),
        (("evaluate", "--predictions", LABELS, "--references", LABELS, "--dataset-json", "raw/dataset.json",
          "--out"), "raw/dataset.json"),
    ],
)  # fmt: skip
def test_a_result_never_replaces_what_it_is_made_from(
    say: Say, made: Path, words: tuple[str, ...], read: str
) -> None:
    shutil.copytree(made / "raw", "raw")
    shutil.copyfile(made / "dataset_fingerprint.json", "f.json")
    shutil.copyfile(made / "plans.json", "p.json")
    before = Path(read).read_bytes()

    assert "would be lost" in say(*words, read)
    assert Path(read).read_bytes() == before


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr/new"])
def test_preprocessed_cases_never_lie_among_the_datasets_files(say: Say, made: Path, folder: str) -> None:
    out = ("--configuration", "2d", "--out", f"{made}/raw/{folder}")

    assert "name another folder for the preprocessed cases" in say("preprocess", *RAW, *PLANS, *out)


@pytest.mark.parametrize(
    ("predictions", "references", "words"),
    [
        ("nowhere", LABELS, "there is no folder nowhere"),
        (LABELS, "nowhere", "there is no folder nowhere"),
        (LABELS, "empty", "no reference for phantom_000.nii.gz"),
        ("empty", LABELS, "empty holds no file"),
        (LABELS, "file", "there is no folder file"),
    ],
)
def test_folders_of_segmentations_are_named(say: Say, predictions: str, references: str, words: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")

    said = say(
        "evaluate", "--predictions", predictions, "--references", references, *DESCRIPTION, "--out", "s"
    )

    assert words in said


def test_a_target_that_leads_in_a_circle_is_one_sentence(say: Say) -> None:
    Path("loop").symlink_to("loop")
    older = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}, "training": []}
    for folder in ("old/imagesTr", "old/labelsTr"):
        Path(folder).mkdir(parents=True)
    Path("old/dataset.json").write_text(json.dumps(older))

    assert say("convert", "--from", "old", "--out", "loop")


@pytest.mark.parametrize("device", ["xpu", "mps", "cuda:x", ""])
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_a_device_is_one_that_is_used(say: Say, verb: str, device: str) -> None:
    order = {
        "train": (*RAW, *PLANS, "--configuration", "2d", "--out", "m"),
        "predict": ("--model", "m", "--input", "i", "--out", "o"),
    }

    assert "write auto, cpu, cuda or cuda:1" in say(verb, *order[verb], "--device", device)


@pytest.mark.parametrize("entry", [5, None, [], "text"])
def test_a_configuration_that_is_none_is_named_with_the_file(say: Say, made: Path, entry: object) -> None:
    values = json.loads((made / "plans.json").read_text())
    Path("odd.json").write_text(
        json.dumps(values | {"configurations": values["configurations"] | {"x": entry}})
    )

    assert say("explain", "--plans", "odd.json").startswith("odd.json cannot be used: configurations.x: ")


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a__b", ""])
@pytest.mark.parametrize(
    "verb", [PLAN, ("move-plans", *PLANS, *RAW, "--out", "p.json")], ids=["plan", "move"]
)
def test_plans_are_named_as_folders_can_be(say: Say, verb: tuple[str, ...], name: str) -> None:
    assert say(*verb, "--plans-name", name).startswith(f"plans cannot be named {name!r}")
    assert not Path("p.json").exists()


@pytest.mark.parametrize("memory", ["nan", "inf", "-1", "0", "1e300", "much"])
def test_memory_to_plan_for_is_a_number(say: Say, memory: str) -> None:
    assert "--gpu-memory-gb" in say(*PLAN, "--gpu-memory-gb", memory)


@pytest.mark.parametrize("spacing", ["inf,1,1", "nan,1,1", "-1,1,1", "1,1,1,1", "1,1", "", "0,0,0", "a"])
def test_a_target_spacing_is_three_numbers(say: Say, spacing: str) -> None:
    assert "three positive numbers" in say(*PLAN, "--target-spacing", spacing)


def test_configurations_that_inherit_in_a_circle_are_named(say: Say, made: Path) -> None:
    values = json.loads((made / "plans.json").read_text())
    values["configurations"] |= {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
    Path("round.json").write_text(json.dumps(values))

    assert "round.json cannot be used: configurations.a: configurations inherit in a circle" in say(
        "explain", "--plans", "round.json"
    )


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_flat_images_are_never_preprocessed_as_volumes(
    say: Say, made: Path, tmp_path: Path, ending: str
) -> None:
    raw = make_dataset(tmp_path / "raw", replace(STANDARD, cases=2, shape=(1, 60, 64), ending=ending))
    measured = fingerprint(raw, tmp_path / "f.json", SilentObserver())
    plan_dataset(raw, measured, PlanRequest(), tmp_path / "flat.json")
    values = json.loads((tmp_path / "flat.json").read_text())
    volumes = json.loads((made / "plans.json").read_text())["configurations"]["3d_fullres"]
    values["configurations"]["mine"] = volumes
    (tmp_path / "flat.json").write_text(json.dumps(values))

    said = say("preprocess", "--raw", "raw", "--plans", "flat.json", "--configuration", "mine", "--out", "o")

    assert "configuration mine is for volumes" in said
    assert "phantom_000" in said
    assert "choose 2d" in said
    assert not Path("o").exists()


def test_few_slices_are_a_volume_all_the_same(made: Path, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", replace(STANDARD, cases=2, shape=(2, 28, 24), margin=0))

    status = command_line.main(
        ["preprocess", "--raw", str(raw), "--plans", str(made / "plans.json"),
         "--configuration", "3d_fullres", "--out", str(tmp_path / "o")]
    )  # fmt: skip

    assert status == 0
