"""A verification of a thousand cases fits on a few screens, and says how much of what there is."""

from core.domain.dataset import DatasetProblem
from core.verification.comparison import ClassFrequency
from core.verification.outline import SHOWN_ALIKE, outline
from core.verification.verify import Verification


def verification(
    problems: list[DatasetProblem], notes: list[DatasetProblem], classes: list[ClassFrequency]
) -> Verification:
    return Verification(
        description=None,
        reader=None,
        cases=(),
        classes=tuple(classes),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def cut_file(number: int) -> DatasetProblem:
    case_id = f"case_{number}"
    message = f"{case_id}_0000.nii.gz is damaged: it ends after {number * 7} bytes; copy it again"
    return DatasetProblem(case=case_id, kind="unreadable-image", message=message)


def test_few_problems_are_all_written_out() -> None:
    problems = [cut_file(number) for number in range(SHOWN_ALIKE)]

    lines = list(outline(verification(problems, [], [])))

    assert lines == [f"{one.case}: {one.kind}: {one.message}" for one in problems]


def test_many_of_equal_form_are_counted() -> None:
    other = DatasetProblem(
        case="case_5", kind="missing-label", message="labelsTr has no case_5.nii.gz; add it"
    )
    note = DatasetProblem(case=None, kind="unused-label", message="labels 7 occur in no case")

    lines = list(outline(verification([*map(cut_file, range(1000)), other], [note], [])))

    assert len(lines) == SHOWN_ALIKE + 4
    assert lines[0] == "dataset: note, unused-label: labels 7 occur in no case"
    assert lines[SHOWN_ALIKE + 1].startswith("990 more: unreadable-image: likewise case_10, case_11")
    assert lines[-2] == "case_5: missing-label: labelsTr has no case_5.nii.gz; add it"
    assert lines[-1] == "problems: 1000 unreadable-image, 1 missing-label; --json-report has each"


def test_classes_are_a_table() -> None:
    classes = [
        ClassFrequency(label=0, names=("background",), cases=2, voxels=750),
        ClassFrequency(label=1, names=("whole", "core"), cases=1, voxels=250),
        ClassFrequency(label=7, names=(), cases=0, voxels=0),
    ]

    head, *rows = outline(verification([], [], classes))

    assert head.split() == ["label", "cases", "voxels", "share", "name"]
    assert rows[1].split() == ["1", "1/0", "250", "25.0000%", "whole,", "core"]
    assert rows[2].endswith("(not declared)")
