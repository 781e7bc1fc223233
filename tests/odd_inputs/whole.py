"""What only all cases together show, splits that a dataset brings along, and test images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.factories import case_name, make_phantom, write_case
from tests.odd_inputs.table import FIRST, VOLUME, cut, edit, fine, image, label, odd, rewrite


@odd("one image stored in another orientation", "mixed-orientation", names=FIRST, says="reorient them")
def orientation(raw: Path) -> None:
    turned = replace(VOLUME, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    write_case(raw, "Tr", FIRST, make_phantom(VOLUME), turned)


@fine("one image stored in another orientation, and a reader that turns it")
def turned_back(raw: Path) -> None:
    orientation(raw)
    edit(raw, overwrite_image_reader_writer="SimpleITKIOWithReorient")


@odd("one image ten times coarser", "spacing-outlier", names=FIRST, says="10 x 10 x 10 mm")
def spacing(raw: Path) -> None:
    write_case(raw, "Tr", FIRST, make_phantom(VOLUME), replace(VOLUME, spacing=(10.0, 10.0, 10.0)))


@odd(
    "one image a thousand times finer, as in metres",
    "spacing-outlier",
    names=FIRST,
    says="0.001 x 0.001 x 0.001 mm",
)
def metres(raw: Path) -> None:
    write_case(raw, "Tr", FIRST, make_phantom(VOLUME), replace(VOLUME, spacing=(0.001, 0.001, 0.001)))


@odd("the same image twice", "duplicate-image", names="phantom_001", says="keep one")
def twins(raw: Path) -> None:
    image(raw, 1).write_bytes(image(raw).read_bytes())


@odd("the same image twice, compressed differently", "duplicate-image", names="phantom_001", says="keep one")
def recoded_twins(raw: Path) -> None:
    rewrite(image(raw, 1), make_phantom(VOLUME).voxels_czyx[0].astype(np.int32))


@odd(
    "fewer cases than folds",
    "few-cases",
    names="3 cases",
    says="train fold all",
    recipe=replace(VOLUME, cases=3),
)
def few(raw: Path) -> None:
    assert raw.is_dir()  # Nothing else is odd about it.


@fine("images of different size and spacing")
def different_sizes(raw: Path) -> None:
    write_case(
        raw,
        "Tr",
        FIRST,
        make_phantom(replace(VOLUME, shape=(12, 15, 16))),
        replace(VOLUME, spacing=(3.0, 0.8, 0.8)),
    )


def _splits(raw: Path, text: str) -> None:
    """Write splits_final.json."""
    (raw / "splits_final.json").write_text(text)


CASES = [case_name(number) for number in range(VOLUME.cases)]


@fine("splits that fit")
def sound_splits(raw: Path) -> None:
    _splits(raw, json.dumps([{"train": CASES[1:], "val": CASES[:1]}]))


@odd("splits with cases that do not exist", "invalid-splits", names="phantom_099", says="correct the names")
def unknown_cases(raw: Path) -> None:
    _splits(raw, json.dumps([{"train": [*CASES[1:], "phantom_099"], "val": CASES[:1]}]))


@odd("splits that are no JSON", "invalid-splits", names="splits_final.json", says="or delete it")
def splits_text(raw: Path) -> None:
    _splits(raw, "train: all")


@odd("splits without val", "invalid-splits", names="splits_final.json", says="or delete it")
def splits_without_val(raw: Path) -> None:
    _splits(raw, json.dumps([{"train": CASES}]))


@odd(
    "splits that validate what they trained on",
    "split-overlap",
    names=FIRST,
    says="take them out of one list",
)
def overlap(raw: Path) -> None:
    _splits(raw, json.dumps([{"train": CASES, "val": CASES[:1]}]))


def _test_case(raw: Path, name: str = "held_out") -> Path:
    """Add a sound test image, and return its path."""
    (path,) = write_case(raw, "Ts", name, make_phantom(VOLUME, 20), VOLUME)
    return path


@fine("sound test images")
def test_images(raw: Path) -> None:
    _test_case(raw)


@odd("test image damaged", "test-image", names="held_out_0000.nii.gz", says="imagesTs")
def test_image_cut(raw: Path) -> None:
    cut(_test_case(raw), 0.5)


@odd("test image with a channel too many", "test-image", names="held_out", says="the files hold 2")
def test_channels(raw: Path) -> None:
    rewrite(_test_case(raw).with_name("held_out_0001.nii.gz"), make_phantom(VOLUME, 21).voxels_czyx[0])


@odd(
    "test image without channel number",
    "test-image",
    names="held_out.nii.gz",
    says="rename it to held_out_0000.nii.gz",
)
def test_name(raw: Path) -> None:
    path = _test_case(raw)
    path.rename(path.with_name("held_out.nii.gz"))
    (raw / "labelsTs" / "held_out.nii.gz").unlink()


@odd("test image with another ending", "test-image", names="other_0000.mha", says="convert and rename it")
def test_ending(raw: Path) -> None:
    _test_case(raw)
    (raw / "imagesTs" / "other_0000.mha").write_bytes(b"x")


@odd(
    "test image that was trained on",
    "duplicate-image",
    names="test image held_out",
    says=f"training case {FIRST}",
)
def leak(raw: Path) -> None:
    _test_case(raw).write_bytes(image(raw).read_bytes())


@odd("label file of a test image on another grid", "test-image", names="held_out", says="shapes")
def test_label(raw: Path) -> None:
    _test_case(raw)
    rewrite(raw / "labelsTs" / "held_out.nii.gz", np.zeros((3, 4, 5), np.uint8))


@odd(
    "several cases damaged at once",
    "unreadable-image",
    "unreadable-label",
    "missing-label",
    "case-count",
    names=FIRST,
)
def many(raw: Path) -> None:
    cut(image(raw), 0.5)
    cut(label(raw, 1), 0.5)
    label(raw, 2).unlink()
    edit(raw, numTraining=9)
