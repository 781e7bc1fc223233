"""A store follows its dataset: nothing is made twice, nothing is left out, and one bad case harms no other."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.domain.plan import Plan
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError, ImageError, UnknownNameError
from core.io.case_store import CaseStore
from core.io.cases import find_cases, read_description
from core.preprocessing.dataset import Means, Outcome, needed_bytes, preprocess_dataset
from core.preprocessing.dataset import Recipe as How
from tests.factories import Recipe, case_name, make_dataset, make_phantom, write_case
from tests.plans import small_plan

RECIPE = Recipe(cases=4)
PLAN, _ = small_plan((1.0, 1.5, 1.0))
PLENTY = 2**40


class Stops(SilentObserver):
    def __init__(self, after: int) -> None:
        self.seen: list[Progress] = []
        self._after = after

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)

    def stop_requested(self) -> bool:
        return len(self.seen) >= self._after


def run(
    raw: Path,
    store: Path,
    plan: Plan = PLAN,
    *,
    others: Sequence[Path] = (),
    observer: SilentObserver | None = None,
    memory: int = PLENTY,
) -> Outcome:
    description = read_description(raw)
    how = How(plan, plan.configuration("small"), description.label_set())
    means = Means(workers=2, memory_bytes=memory, other_stores=tuple(others))
    cases = find_cases(raw, description)
    return preprocess_dataset(cases, how, CaseStore(store), means, observer or SilentObserver())


def change(raw: Path, number: int, recipe: Recipe = RECIPE) -> None:
    """Give a case other voxels."""
    write_case(raw, "Tr", case_name(number), make_phantom(replace(recipe, seed=99), number), recipe)


def times(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.iterdir()}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "raw", RECIPE)


def test_what_did_not_change_is_kept(raw: Path, tmp_path: Path) -> None:
    first = run(raw, tmp_path / "store")
    before = times(tmp_path / "store")

    again = run(raw, tmp_path / "store")

    assert first == Outcome(made=4, kept=0, taken=0, removed=0)
    assert again == Outcome(made=0, kept=4, taken=0, removed=0)
    assert times(tmp_path / "store") == before


def test_only_the_case_that_changed_is_made_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    before = times(tmp_path / "store")
    change(raw, 2)

    done = run(raw, tmp_path / "store")

    after = times(tmp_path / "store")
    assert done == Outcome(made=1, kept=3, taken=0, removed=0)
    assert [name for name in after if after[name] != before[name]] == [f"{case_name(2)}.npz"]


def test_another_reference_is_a_change(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    labels = raw / "labelsTr"
    (labels / f"{case_name(0)}.nii.gz").write_bytes((labels / f"{case_name(1)}.nii.gz").read_bytes())

    assert run(raw, tmp_path / "store").made == 1


def test_another_plan_makes_all_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    coarser, _ = small_plan((2.0, 1.5, 1.0))

    assert run(raw, tmp_path / "store", coarser) == Outcome(made=4, kept=0, taken=0, removed=0)


def test_cases_that_the_dataset_lost_are_removed_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    for path in (raw / f"imagesTr/{case_name(1)}_0000.nii.gz", raw / f"labelsTr/{case_name(1)}.nii.gz"):
        path.unlink()
    np.savez(tmp_path / "store/of_somebody_else.npz", a=np.arange(3))
    (tmp_path / "store/folder_of_the_release_before").mkdir()

    done = run(raw, tmp_path / "store")

    assert done == Outcome(made=0, kept=3, taken=0, removed=1)
    assert set(times(tmp_path / "store")) == {
        *(f"{case_name(number)}.npz" for number in (0, 2, 3)),
        "of_somebody_else.npz",
        "folder_of_the_release_before",
    }


def test_a_damaged_case_is_made_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    path = tmp_path / "store" / f"{case_name(0)}.npz"
    path.write_bytes(path.read_bytes()[:-100])

    assert run(raw, tmp_path / "store") == Outcome(made=1, kept=3, taken=0, removed=0)


def test_a_case_whose_voxels_did_not_reach_the_disk_is_neither_kept_nor_taken(
    raw: Path, tmp_path: Path
) -> None:
    """After a power cut a file can be of full length, with its record, and zeros where its voxels should be."""
    run(raw, tmp_path / "store")
    file = tmp_path / "store" / f"{case_name(0)}.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    file.write_bytes(content)

    elsewhere = run(raw, tmp_path / "other", others=[tmp_path / "store"])
    again = run(raw, tmp_path / "store")

    assert elsewhere == Outcome(made=1, kept=0, taken=3, removed=0)
    assert again == Outcome(made=1, kept=3, taken=0, removed=0)


def test_equal_cases_are_taken_from_other_stores(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "old")
    change(raw, 3)

    done = run(raw, tmp_path / "new", others=[tmp_path / "old", tmp_path / "nowhere"])

    assert done == Outcome(made=1, kept=0, taken=3, removed=0)
    shared = [
        (tmp_path / "old" / name).samefile(tmp_path / "new" / name)
        for name in sorted(times(tmp_path / "new"))
    ]
    assert shared == [True, True, True, False]


def test_renamed_cases_are_recognised_by_their_content(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "old")
    (raw / f"imagesTr/{case_name(0)}_0000.nii.gz").rename(raw / "imagesTr/new_0000.nii.gz")
    (raw / f"labelsTr/{case_name(0)}.nii.gz").rename(raw / "labelsTr/new.nii.gz")

    done = run(raw, tmp_path / "new", others=[tmp_path / "old"])

    assert done == Outcome(made=0, kept=0, taken=4, removed=0)
    assert CaseStore(tmp_path / "new").has("new")


def test_what_is_made_does_not_depend_on_the_memory_or_on_others(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "one")

    run(raw, tmp_path / "other", memory=1)

    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_one_bad_case_is_named_and_the_others_are_done(raw: Path, tmp_path: Path) -> None:
    bad = raw / f"imagesTr/{case_name(1)}_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-30])

    with pytest.raises(ImageError, match=rf"^case {case_name(1)}: {case_name(1)}_0000.*damaged"):
        run(raw, tmp_path / "store")

    assert CaseStore(tmp_path / "store").case_ids == tuple(case_name(number) for number in (0, 2, 3))


def test_all_bad_cases_are_named_together(raw: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        (raw / f"imagesTr/{case_name(number)}_0000.nii.gz").write_bytes(b"nothing")
    change(raw, 3, replace(RECIPE, shape=(9, 9, 9)))
    make_dataset(tmp_path / "small", replace(RECIPE, shape=(8, 9, 10)))
    label = f"labelsTr/{case_name(3)}.nii.gz"
    (raw / label).write_bytes((tmp_path / "small" / label).read_bytes())

    with pytest.raises(DatasetError) as caught:
        run(raw, tmp_path / "store")

    message = caught.value.message
    assert message.startswith("3 of 4 cases cannot be preprocessed: ")
    assert f"case {case_name(0)}: {case_name(0)}_0000.nii.gz is no NIfTI image" in message
    assert f"(likewise {case_name(2)}); case {case_name(3)}: the image has " in message
    assert "\n" not in message
    problems = caught.value.context["problems"]
    assert isinstance(problems, list)
    assert [problem["case"] for problem in problems if isinstance(problem, dict)] == [
        case_name(number) for number in (0, 2, 3)
    ]
    assert CaseStore(tmp_path / "store").case_ids == (case_name(1),)


def test_what_was_made_of_a_case_before_it_became_bad_does_not_stay(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    (raw / f"imagesTr/{case_name(1)}_0000.nii.gz").write_bytes(b"nothing")

    with pytest.raises(ImageError):
        run(raw, tmp_path / "store")

    assert CaseStore(tmp_path / "store").case_ids == tuple(case_name(number) for number in (0, 2, 3))


def test_a_reason_that_many_cases_share_is_told_once(tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", replace(RECIPE, channels=2))

    with pytest.raises(DatasetError) as caught:
        run(raw, tmp_path / "store")

    assert caught.value.message == (
        f"4 of 4 cases cannot be preprocessed: case {case_name(0)}: the image has 2 channels but the plan normalizes "
        "1; give one file per channel, in the order of channel_names in dataset.json (likewise "
        f"{case_name(1)}, {case_name(2)}, {case_name(3)})"
    )


def test_a_case_that_was_repaired_is_all_that_is_done_next(raw: Path, tmp_path: Path) -> None:
    bad = raw / f"imagesTr/{case_name(1)}_0000.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(b"nothing")
    with pytest.raises(ImageError):
        run(raw, tmp_path / "store")

    bad.write_bytes(whole)

    assert run(raw, tmp_path / "store") == Outcome(made=1, kept=3, taken=0, removed=0)


def test_a_case_that_lost_a_file_is_named(raw: Path, tmp_path: Path) -> None:
    description = read_description(raw)
    cases = find_cases(raw, description)
    how = How(PLAN, PLAN.configuration("small"), description.label_set())
    cases[2].images[0].unlink()

    with pytest.raises(
        ImageError, match=rf"case {case_name(2)}: {case_name(2)}_0000.nii.gz cannot be opened"
    ):
        preprocess_dataset(cases, how, CaseStore(tmp_path / "store"), Means(1, PLENTY), SilentObserver())


def test_a_plan_that_names_what_does_not_exist_is_refused_before_any_case(raw: Path, tmp_path: Path) -> None:
    for entry in ({"resampling_fn_seg": "magic"}, {"normalization_schemes": ["Magic"]}):
        plan, _ = small_plan((1.0, 1.0, 1.0), entries=entry)

        with pytest.raises(UnknownNameError, match=r"[mM]agic"):
            run(raw, tmp_path / "store", plan)

    assert not (tmp_path / "store").exists()


def test_a_folder_that_cannot_be_written_is_named(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")

    with pytest.raises(DatasetError, match=r"cannot be written to .*store"):
        run(raw, tmp_path / "store")


def test_it_stops_when_asked_and_goes_on_where_it_stopped(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(CancelledError, match="after 2 of 4 cases"):
        run(raw, tmp_path / "store", observer=Stops(after=2))

    done = run(raw, tmp_path / "store")

    assert done.kept >= 2
    assert done.made + done.kept == 4


def test_progress_counts_every_case(raw: Path, tmp_path: Path) -> None:
    observer = Stops(after=99)

    run(raw, tmp_path / "store", observer=observer)

    assert [(one.stage, one.done, one.total) for one in observer.seen] == [
        ("preprocess", done, 4) for done in (1, 2, 3, 4)
    ]


def test_an_ignore_label_that_is_declared_later_makes_all_again(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "store")
    description = json.loads((raw / "dataset.json").read_text())
    description["labels"]["ignore"] = 3
    (raw / "dataset.json").write_text(json.dumps(description))

    assert run(raw, tmp_path / "store").made == 4


def test_the_estimate_grows_with_image_channels_and_result(tmp_path: Path) -> None:
    def estimate(recipe: Recipe, spacing: tuple[float, float, float]) -> int:
        folder = make_dataset(tmp_path / str(hash((str(recipe), spacing))), recipe)
        description = read_description(folder)
        plan, configuration = small_plan(spacing)
        how = How(plan, configuration, description.label_set())
        return needed_bytes(find_cases(folder, description)[0], how)

    small = replace(RECIPE, cases=1, shape=(40, 60, 60))
    alone = estimate(small, (1.0, 1.0, 1.0))

    assert estimate(replace(small, shape=(80, 60, 60)), (1.0, 1.0, 1.0)) > alone
    assert estimate(replace(small, channels=3), (1.0, 1.0, 1.0)) > alone
    assert estimate(small, (0.5, 0.5, 0.5)) > alone


@pytest.mark.parametrize("spacing", [(1000.0, 1000.0, 1000.0), (1e-7, 1e-7, 1e-7)])
@pytest.mark.parametrize("memory", [1, PLENTY])
def test_an_absurd_spacing_is_named_with_every_case(
    raw: Path, tmp_path: Path, spacing: tuple[float, float, float], memory: int
) -> None:
    absurd, _ = small_plan(spacing)

    with pytest.raises(DatasetError, match=r"4 of 4 cases.*case phantom_000: at the spacing \[.*likewise"):
        run(raw, tmp_path / "store", absurd, memory=memory)
