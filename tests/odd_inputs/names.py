"""Names of files and folders that do not follow the layout, and what stands where files should be."""

import os
from pathlib import Path

from tests.factories import make_phantom, write_case
from tests.odd_inputs.table import FIRST, VOLUME, edit, fine, image, label, odd

IMAGE = f"{FIRST}_0000.nii.gz"
LABEL = f"{FIRST}.nii.gz"

DICOM = bytes(128) + b"DICM" + bytes(64)
"""Preamble and mark of a DICOM file."""


def _image_named(raw: Path, name: str) -> None:
    """Give the first image another name."""
    image(raw).rename(image(raw).with_name(name))


@odd(
    "channel number of three digits",
    "file-name",
    "case-count",
    "missing-image",
    names=FIRST,
    says=f"or to {IMAGE} if 000",
)
def three_digits(raw: Path) -> None:
    _image_named(raw, f"{FIRST}_000.nii.gz")


@odd(
    "channel number of five digits",
    "file-name",
    "case-count",
    "missing-image",
    names=FIRST,
    says=f"or to {IMAGE} if 00000",
)
def five_digits(raw: Path) -> None:
    _image_named(raw, f"{FIRST}_00000.nii.gz")


@odd(
    "no channel number",
    "file-name",
    "case-count",
    "missing-image",
    names=LABEL,
    says="rename it to phantom_000_0000",
)
def no_number(raw: Path) -> None:
    _image_named(raw, LABEL)


@odd(
    "no case identifier",
    "file-name",
    "case-count",
    "missing-image",
    names="_0000.nii.gz",
    says="CASE_0000.nii.gz",
)
def no_identifier(raw: Path) -> None:
    _image_named(raw, "_0000.nii.gz")


@odd(
    "upper-case ending",
    "file-ending",
    "case-count",
    "missing-image",
    names=FIRST,
    says=f"rename it to {IMAGE}",
)
def upper_ending(raw: Path) -> None:
    _image_named(raw, f"{FIRST}_0000.NII.GZ")


@odd(
    "another ending than the others",
    "file-ending",
    "case-count",
    "missing-image",
    names=FIRST,
    says="convert and rename",
)
def other_ending(raw: Path) -> None:
    _image_named(raw, f"{FIRST}_0000.mha")


@odd(
    "name with a line break",
    "file-name",
    "case-count",
    "missing-image",
    names="imagesTr",
    says="no plain text",
)
def line_break(raw: Path) -> None:
    _image_named(raw, "phan\ntom_0000.nii.gz")


@odd("name that is no text", "file-name", "case-count", "missing-image", names="\\xff", says="rename it")
def no_text(raw: Path) -> None:
    _image_named(raw, os.fsdecode(b"\xff_0000.nii.gz"))


@odd("download that was not finished", "stray-file", "case-count", "missing-image", names=f"{IMAGE}.part")
def partial(raw: Path) -> None:
    _image_named(raw, f"{IMAGE}.part")


@odd("other files beside the images", "stray-file", names="notes.txt", says="left out")
def stray(raw: Path) -> None:
    (raw / "imagesTr" / "notes.txt").write_text("remember to export case 7 again")


@fine("what desktop systems leave behind")
def hidden(raw: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for name in (".DS_Store", f"._{IMAGE}", "Thumbs.db", "desktop.ini", "._" + LABEL):
            (raw / folder / name).write_bytes(b"x")


@fine("side-cars of BIDS")
def side_cars(raw: Path) -> None:
    (raw / "imagesTr" / f"{FIRST}_0000.json").write_text("{}")


@odd("JPEG instead of an image", "file-ending", names="scan.jpg", says="export the originals as PNG")
def jpeg(raw: Path) -> None:
    (raw / "imagesTr" / "scan.jpg").write_bytes(b"\xff\xd8\xff\xe0")


@odd("DICOM files among the images", "file-ending", names="slice1.dcm", says="dcm2niix")
def dicom(raw: Path) -> None:
    for number in range(3):
        (raw / "imagesTr" / f"slice{number}.dcm").write_bytes(DICOM)


@odd("DICOM files without ending", "file-ending", names="IM0001", says="DICOM")
def dicom_without_ending(raw: Path) -> None:
    (raw / "imagesTr" / "IM0001").write_bytes(DICOM)


@odd("folder of a DICOM series", "not-a-file", names="Series1", says="dcm2niix")
def dicom_folder(raw: Path) -> None:
    (raw / "imagesTr" / "Series1").mkdir()
    (raw / "imagesTr" / "Series1" / "IM0001").write_bytes(DICOM)


@odd(
    "one folder per case", "not-a-file", "no-cases", "missing-image", names="phantom_000", says="move them up"
)
def folder_per_case(raw: Path) -> None:
    for number in range(VOLUME.cases):
        folder = raw / "imagesTr" / f"phantom_{number:03d}"
        folder.mkdir()
        image(raw, number).rename(folder / f"phantom_{number:03d}_0000.nii.gz")


@odd(
    "folder named like an image", "not-a-file", "case-count", "missing-image", names=IMAGE, says="is a folder"
)
def folder_as_image(raw: Path) -> None:
    image(raw).unlink()
    (raw / "imagesTr" / IMAGE).mkdir()


@odd(
    "image that is a broken link",
    "not-a-file",
    "case-count",
    "missing-image",
    names=IMAGE,
    says="mend the link",
)
def broken_link(raw: Path) -> None:
    path = image(raw)
    path.unlink()
    path.symlink_to("gone.nii.gz")


@odd("label file that is a broken link", "not-a-file", "missing-label", names=LABEL, says="mend the link")
def broken_label_link(raw: Path) -> None:
    path = label(raw)
    path.unlink()
    path.symlink_to("gone.nii.gz")


@fine("image that is a link to a file elsewhere")
def link(raw: Path) -> None:
    path = image(raw)
    path.rename(raw / "elsewhere")
    path.symlink_to(raw / "elsewhere")


@odd(
    "pipe named like an image",
    "not-a-file",
    "case-count",
    "missing-image",
    names=IMAGE,
    says="no regular file",
)
def pipe(raw: Path) -> None:
    path = image(raw)
    path.unlink()
    os.mkfifo(path)


@odd("image that may not be read", "unreadable-image", names=IMAGE, says="permissions", unless_root=True)
def forbidden(raw: Path) -> None:
    image(raw).chmod(0)


@odd("folder of labels that may not be listed", "invalid-dataset", "missing-label", names="labelsTr", says="permissions",
     unless_root=True)  # fmt: skip
def closed_folder(raw: Path) -> None:
    (raw / "labelsTr").chmod(0)


@odd("folder of images that may not be entered", "invalid-dataset", "no-cases", "missing-image", names="imagesTr",
     says="permissions", unless_root=True)  # fmt: skip
def locked_folder(raw: Path) -> None:
    (raw / "imagesTr").chmod(0o444)


@odd("image that the disk cannot give back", "unreadable-image", names=IMAGE, says="cannot be opened")
def disk_error(raw: Path) -> None:
    path = image(raw)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # Opens, and gives an input error when read.


@odd(
    "label file with a channel number",
    "missing-image",
    "missing-label",
    names=IMAGE,
    says=f"rename it to {LABEL}",
)
def numbered_label(raw: Path) -> None:
    label(raw).rename(label(raw).with_name(IMAGE))


@odd("image without label file", "missing-label", names=LABEL, says="add it")
def no_label(raw: Path) -> None:
    label(raw).unlink()


@odd("label file without image", "missing-image", "case-count", names=LABEL, says=f"add {IMAGE}")
def no_image(raw: Path) -> None:
    image(raw).unlink()


@odd(
    "label file named in another case",
    "missing-label",
    "missing-image",
    names=LABEL,
    says=f"rename {FIRST.upper()}.nii.gz to it",
)
def case_of_label(raw: Path) -> None:
    label(raw).rename(label(raw).with_name(f"{FIRST.upper()}.nii.gz"))


@odd(
    "label file named with letters coded otherwise",
    "missing-label",
    "missing-image",
    names="lésion",
    says="rename",
)
def coded_label(raw: Path) -> None:
    image(raw).rename(image(raw).with_name("l\u00e9sion_0000.nii.gz"))
    label(raw).rename(label(raw).with_name("le\u0301sion.nii.gz"))


@odd("two identifiers that differ in case only", "ambiguous-case", names=FIRST.upper(), says="rename one")
def ambiguous(raw: Path) -> None:
    write_case(raw, "Tr", FIRST.upper(), make_phantom(VOLUME, 9), VOLUME)
    edit(raw, numTraining=VOLUME.cases + 1)


@odd(
    "folder imagesTr misspelled",
    "invalid-dataset",
    "no-cases",
    names="imagestr",
    says="rename imagestr to imagesTr",
)
def misspelled_folder(raw: Path) -> None:
    (raw / "imagesTr").rename(raw / "imagestr")


@odd("folder labelsTr missing", "invalid-dataset", names="labelsTr", says="add it")
def no_labels_folder(raw: Path) -> None:
    for path in (raw / "labelsTr").iterdir():
        path.unlink()
    (raw / "labelsTr").rmdir()


@odd("no image at all", "no-cases", "missing-image", names="imagesTr", says="CASE_0000.nii.gz")
def no_images(raw: Path) -> None:
    for path in (raw / "imagesTr").iterdir():
        path.unlink()


@odd(
    "dataset one folder deeper",
    "invalid-dataset",
    "no-cases",
    names="Dataset001_Inner",
    says="give that folder",
)
def nested(raw: Path) -> None:
    inner = raw / "Dataset001_Inner"
    inner.mkdir()
    for path in [path for path in raw.iterdir() if path != inner]:
        path.rename(inner / path.name)
