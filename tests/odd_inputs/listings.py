"""The key `dataset` of dataset.json, which lists the files of each case."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.odd_inputs.table import FIRST, VOLUME, edit, fine, odd

INVALID = "invalid-dataset"


def listed(raw: Path) -> dict[str, Any]:
    """Return a list of all cases of the folder layout."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    return {
        name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
        for name in names
    }


def _first(raw: Path, **changes: object) -> None:
    """List all cases, the first with other entries; None takes one out."""
    entries = listed(raw)
    first: Mapping[str, object] = {**entries[FIRST], **changes}
    edit(raw, dataset={**entries, FIRST: {key: value for key, value in first.items() if value is not None}})


@fine("list of files")
def sound(raw: Path) -> None:
    edit(raw, dataset=listed(raw))


@odd("list: image that does not exist", "missing-file", names="gone.nii.gz", says="correct the path")
def missing_image(raw: Path) -> None:
    _first(raw, images=["imagesTr/gone.nii.gz"])


@odd("list: label file that does not exist", "missing-file", names="gone.nii.gz", says="correct the path")
def missing_label(raw: Path) -> None:
    _first(raw, label="labelsTr/gone.nii.gz")


@odd(
    "list: environment variable that is not set",
    "missing-file",
    names="$NO_SUCH_PLACE",
    says="set the environment",
)
def variable(raw: Path) -> None:
    _first(raw, label="$NO_SUCH_PLACE/a.nii.gz")


@odd("list: a folder instead of a file", "missing-file", names="imagesTr", says="correct the path")
def a_folder(raw: Path) -> None:
    _first(raw, images=["imagesTr"])


@odd("list: case without label", INVALID, names="lacks label", says='"label": path')
def no_label(raw: Path) -> None:
    _first(raw, label=None)


@odd("list: case without images", INVALID, names="images", says="one path per channel")
def no_images(raw: Path) -> None:
    _first(raw, images=[])


@odd("list: images a string", INVALID, names="images", says="one path per channel")
def images_a_string(raw: Path) -> None:
    _first(raw, images=f"imagesTr/{FIRST}_0000.nii.gz")


@odd("list: label a number", INVALID, names="label is 7", says='"label": path')
def label_a_number(raw: Path) -> None:
    _first(raw, label=7)


@odd("list: not an object", INVALID, names="dataset is", says="for each case")
def not_an_object(raw: Path) -> None:
    edit(raw, dataset=list(listed(raw)))


@odd(
    "list: a file for two cases",
    "listed-twice",
    "duplicate-image",
    names=f"{FIRST}, phantom_001",
    says="correct the path",
)
def a_file_twice(raw: Path) -> None:
    _first(raw, images=["imagesTr/phantom_001_0000.nii.gz"])


@odd(
    "list: a file for two channels",
    "listed-twice",
    "channel-count",
    names="(2 times)",
    says="correct the path",
)
def a_channel_twice(raw: Path) -> None:
    _first(raw, images=[f"imagesTr/{FIRST}_0000.nii.gz"] * 2)


@odd("list: path with a NUL byte", "file-name", names="\\x00", says="correct it")
def nul(raw: Path) -> None:
    _first(raw, label="labelsTr/\0.nii.gz")


@odd("list: identifier that cannot name a file", "file-name", names="'../up'", says="letters and digits")
def identifier(raw: Path) -> None:
    entries = listed(raw)
    edit(raw, dataset={**entries, "../up": entries[FIRST]}, numTraining=VOLUME.cases + 1)


@odd("list: path longer than any", "missing-file", names="aaaa", says="correct the path")
def too_long(raw: Path) -> None:
    _first(raw, label=f"labelsTr/{'a' * 5000}.nii.gz")


@odd(
    "list: other number of cases than numTraining",
    "case-count",
    names="numTraining 6",
    says="cases is 5",
)
def count(raw: Path) -> None:
    entries = listed(raw)
    entries.pop(FIRST)
    edit(raw, dataset=entries)
