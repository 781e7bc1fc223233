"""dataset.json: missing, no JSON, without entries, with wrong ones, with ones that contradict each other."""

import json
from pathlib import Path
from typing import Any

from tests.odd_inputs.table import Making, cut, edit, fine, image, odd

INVALID, LABELS = "invalid-dataset", "invalid-labels"


def _text(raw: Path) -> Path:
    """Return the path of dataset.json."""
    return raw / "dataset.json"


@odd("dataset.json missing", INVALID, names="dataset.json", says="add one")
def missing(raw: Path) -> None:
    _text(raw).unlink()


@odd(
    "dataset.json missing, and an image damaged",
    INVALID,
    "unreadable-image",
    names="dataset.json",
    says="add one",
)
def missing_and_damaged(raw: Path) -> None:
    _text(raw).unlink()
    cut(image(raw), 0.5)


@odd(
    "numTraining missing, and an image damaged", INVALID, "unreadable-image", names="numTraining", says="add"
)
def incomplete_and_damaged(raw: Path) -> None:
    edit(raw, numTraining=None)
    cut(image(raw), 0.5)


@odd("dataset.json empty", INVALID, names="dataset.json", says="is empty")
def empty(raw: Path) -> None:
    _text(raw).write_text("")


@odd("dataset.json cut", INVALID, names="dataset.json", says="line ")
def truncated(raw: Path) -> None:
    cut(_text(raw), 0.7)


@odd("dataset.json with a comma too many", INVALID, names="dataset.json", says="line 1")
def comma(raw: Path) -> None:
    _text(raw).write_text(json.dumps(json.loads(_text(raw).read_text()))[:-1] + ",}")


@odd("dataset.json is a list", INVALID, names="dataset.json", says="not a list")
def a_list(raw: Path) -> None:
    _text(raw).write_text("[]")


@odd("dataset.json nested without end", INVALID, names="dataset.json", says="correct it")
def nested(raw: Path) -> None:
    _text(raw).write_text("[" * 100_000)


@odd("dataset.json in Latin-1", INVALID, names="dataset.json", says="UTF-8")
def latin(raw: Path) -> None:
    edit(raw, description="Größe")
    _text(raw).write_bytes(
        _text(raw).read_text().replace("\\u00f6", "ö").replace("\\u00df", "ß").encode("latin-1")
    )


@fine("dataset.json with a byte order mark")
def byte_order_mark(raw: Path) -> None:
    _text(raw).write_bytes(b"\xef\xbb\xbf" + _text(raw).read_bytes())


@fine("dataset.json in UTF-16")
def utf_16(raw: Path) -> None:
    _text(raw).write_bytes(_text(raw).read_text().encode("utf-16"))


@fine("dataset.json with entries of its own")
def further_entries(raw: Path) -> None:
    edit(raw, licence="CC0", tensorImageSize="3D", mine={"a": [1]})


@odd("dataset.json with an entry twice", INVALID, names='"left"', says="remove one")
def twice(raw: Path) -> None:
    _text(raw).write_text(_text(raw).read_text().replace('"left": 1', '"left": 2, "left": 1'))


@odd("dataset.json with NaN", INVALID, names="NaN", says="write null or a number")
def not_a_number(raw: Path) -> None:
    edit(raw, version=float("nan"))


@odd("dataset.json is a folder", INVALID, names="dataset.json", says="add one")
def folder(raw: Path) -> None:
    _text(raw).unlink()
    _text(raw).mkdir()


@odd("all entries missing", INVALID, names="channel_names, labels, numTraining, file_ending", says="add")
def all_missing(raw: Path) -> None:
    _text(raw).write_text("{}")


def _entry(name: str, *kinds: str, names: str, says: str, **changes: Any) -> Making:
    """Enter a dataset.json with other entries."""

    @odd(f"dataset.json: {name}", *kinds, names=names, says=says)
    def make(raw: Path) -> None:
        edit(raw, **changes)

    return make


_entry(
    "entry misspelled",
    INVALID,
    names="numTraining",
    says='is "numtraining" meant?',
    numTraining=None,
    numtraining=6,
)
_entry("numTraining wrong", "case-count", names="numTraining 7", says="cases is 6", numTraining=7)
_entry("numTraining a string", INVALID, names="numTraining", says="without quotes", numTraining="6")
_entry("numTraining negative", INVALID, names="numTraining", says="write the number", numTraining=-5)
_entry("numTraining not whole", INVALID, names="numTraining", says="whole number", numTraining=5.5)
_entry("channel_names a list", INVALID, names="channel_names", says='{"0": "CT"}', channel_names=["CT"])
_entry("channel_names empty", INVALID, names="channel_names", says='{"0": "CT"}', channel_names={})
_entry(
    "channel_names from 1",
    "channel-names",
    names="keys 1",
    says="number them from 0",
    channel_names={"1": "MR"},
)
_entry(
    "channel name a number",
    INVALID,
    names="channel_names.0",
    says="one name per channel",
    channel_names={"0": 7},
)
_entry("file_ending without dot", INVALID, names='"nii.gz"', says="with its dot", file_ending="nii.gz")
_entry(
    "file_ending unknown", "file-ending", names=".xyz", says="the images end in .nii.gz", file_ending=".xyz"
)
_entry("file_ending of other files", "file-ending", names=".mha", says="6 end in .nii.gz", file_ending=".mha")
_entry("file_ending a number", INVALID, names="file_ending is 7", says="with its dot", file_ending=7)
_entry(
    "reader that does not exist",
    "unknown-name",
    names="ItkReader",
    says="SimpleITKIO",
    overwrite_image_reader_writer="ItkReader",
)
_entry(
    "reader for other files",
    "unknown-name",
    names="Tiff3DIO",
    says="leave",
    overwrite_image_reader_writer="Tiff3DIO",
)
_entry(
    "reader no name",
    INVALID,
    names="overwrite_image_reader_writer",
    says="SimpleITKIO",
    overwrite_image_reader_writer=["a"],
)
_entry("labels a list", INVALID, names="labels", says='"background": 0', labels=["background", "left"])
_entry("only background", INVALID, names="labels", says="too few", labels={"background": 0})
ODD = {"background": 0, "left": 1, "right": 2}
_entry("labels as nnU-Net v1 has them", INVALID, names='"left": 1', says="nnU-Net v1",
       labels={str(value): name for name, value in ODD.items()})  # fmt: skip
_entry("label a string", INVALID, names="labels.left", says="number", labels={**ODD, "left": "1"})
_entry("label not whole", INVALID, names="labels.left", says="number", labels={**ODD, "left": 1.0})
_entry("labels not consecutive", LABELS, names="0, 1, 2, 5", says="renumber", labels={**ODD, "far": 5})
_entry("label negative", LABELS, names="-1", says="renumber", labels={**ODD, "outside": -1})
_entry(
    "background missing",
    LABELS,
    names="background",
    says="must contain",
    labels={"left": 1, "right": 2, "none": 0},
)
_entry(
    "background in upper case",
    LABELS,
    names="Background",
    says="must contain",
    labels={"Background": 0, "left": 1, "right": 2},
)
_entry(
    "background not 0",
    LABELS,
    names="background",
    says="not 3",
    labels={"background": 3, "left": 1, "right": 2, "none": 0},
)
_entry("background a list", LABELS, names="background", says="not [0]", labels={**ODD, "background": [0]})
_entry(
    "two labels with one value",
    LABELS,
    names="right and both",
    says="give each its own",
    labels={**ODD, "both": 2},
)
_entry(
    "ignore not the highest",
    LABELS,
    names="ignore",
    says="highest value, 4, not 3",
    labels={**ODD, "ignore": 3, "more": 3} | {"ignore": 3},
)
_entry("ignore a list", LABELS, names="ignore", says="one number", labels={**ODD, "ignore": [3]})
_entry(
    "ignore in upper case",
    "label-names",
    "unused-label",
    names="'Ignore'",
    says="write 'ignore'",
    labels={**ODD, "Ignore": 3},
)
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
_entry(
    "regions without order", LABELS, names="whole, core", says="regions_class_order with 2", labels=REGIONS
)
_entry(
    "regions with an order too short",
    LABELS,
    names="whole, core",
    says="it has 1",
    labels=REGIONS,
    regions_class_order=[1],
)
_entry(
    "region without values",
    LABELS,
    names="core",
    says="list no value",
    labels={**ODD, "core": []},
    regions_class_order=[1, 2, 3],
)
_entry(
    "order of regions a number",
    INVALID,
    LABELS,
    names="regions_class_order",
    says="one whole number per region",
    labels=REGIONS,
    regions_class_order=1,
)
_entry(
    "order of regions that loses a label",
    "region-order",
    names="label 2",
    says="larger regions first",
    labels={"background": 0, "core": 2, "whole": [1, 2]},
    regions_class_order=[2, 1],
)
_entry(
    "order of regions with a value that is none",
    "region-order",
    names="label 1",
    says="into 7",
    labels=REGIONS,
    regions_class_order=[7, 2],
)
_entry(
    "order of regions without regions",
    "region-order",
    names="regions_class_order",
    says="remove it",
    regions_class_order=[1, 2],
)
_entry("several mistakes at once", LABELS, "case-count", names="consecutive", says="renumber", numTraining=1,
       labels={"background": 0, "left": 1, "far": 9, "ignore": 4})  # fmt: skip
