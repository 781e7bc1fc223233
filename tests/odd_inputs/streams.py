"""Files that were cut, changed on their way, or are something else than their name says."""

import gzip
import zipfile
from pathlib import Path

from tests.odd_inputs.table import (
    FIRST,
    PLAIN,
    STACK,
    change,
    cut,
    fine,
    image,
    label,
    odd,
)

IMAGE = f"{FIRST}_0000.nii.gz"
LABEL = f"{FIRST}.nii.gz"


@odd("gzip stream cut in the middle", "unreadable-image", names=IMAGE)
def gzip_cut(raw: Path) -> None:
    cut(image(raw), 0.5)


@odd("gzip stream cut after its header", "unreadable-image", names=IMAGE)
def gzip_header_only(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes()[:12])


@odd("gzip stream without its trailer", "unreadable-image", names=IMAGE)
def gzip_trailer(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes()[:-8])


@odd("gzip stream, last byte missing", "unreadable-image", names=IMAGE)
def gzip_last_byte(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes()[:-1])


@odd("gzip stream with a wrong CRC-32", "unreadable-image", names=IMAGE)
def gzip_crc(raw: Path) -> None:
    change(image(raw), lambda content: content.__setitem__(-7, content[-7] ^ 1))


@odd("gzip stream with a wrong length", "unreadable-image", names=IMAGE)
def gzip_length(raw: Path) -> None:
    change(image(raw), lambda content: content.__setitem__(-3, content[-3] ^ 1))


@odd("gzip stream with one bit flipped", "unreadable-image", names=IMAGE)
def gzip_bit(raw: Path) -> None:
    change(image(raw), lambda content: content.__setitem__(len(content) // 2, content[len(content) // 2] ^ 4))


@odd("gzip stream followed by other bytes", "unreadable-image", names=IMAGE)
def gzip_garbage(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes() + b"something else")


@odd("gzip stream compressed twice", "unreadable-image", names=IMAGE)
def gzip_twice(raw: Path) -> None:
    image(raw).write_bytes(gzip.compress(image(raw).read_bytes()))


@fine("gzip stream of several members")
def gzip_members(raw: Path) -> None:
    content = gzip.decompress(image(raw).read_bytes())
    image(raw).write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))


@odd("empty file", "unreadable-image", names=IMAGE, says="is empty")
def empty_file(raw: Path) -> None:
    image(raw).write_bytes(b"")


@odd("text file named .nii.gz", "unreadable-image", names=IMAGE)
def text_file(raw: Path) -> None:
    image(raw).write_text("not an image\n" * 40)


@odd("web page named .nii.gz", "unreadable-image", names=IMAGE, says="is a web page")
def web_page(raw: Path) -> None:
    image(raw).write_text("<!doctype html><html><body>Please log in</body></html>\n" * 20)


@odd("Git LFS pointer instead of the image", "unreadable-image", names=IMAGE, says="git lfs pull")
def lfs_pointer(raw: Path) -> None:
    image(raw).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")


@odd("DICOM file named .nii.gz", "unreadable-image", names=IMAGE, says="dcm2niix")
def dicom_file(raw: Path) -> None:
    image(raw).write_bytes(bytes(128) + b"DICM" + bytes(64))


@odd("gzip stream padded with zeros", "unreadable-image", names=IMAGE)
def gzip_padded(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes() + bytes(512))


@odd("zip archive named .nii.gz", "unreadable-image", names=IMAGE, says="unpack it")
def zip_file(raw: Path) -> None:
    content = image(raw).read_bytes()
    with zipfile.ZipFile(image(raw), "w") as archive:
        archive.writestr("image.nii.gz", content)


@odd("file of zeros, as a broken disk leaves it", "unreadable-image", names=IMAGE)
def zeros(raw: Path) -> None:
    image(raw).write_bytes(bytes(len(image(raw).read_bytes())))


@odd("gzipped image named .nii", "unreadable-image", names=f"{FIRST}_0000.nii", recipe=PLAIN)
def gzip_named_plain(raw: Path) -> None:
    image(raw).write_bytes(gzip.compress(image(raw).read_bytes()))


@fine("plain NIfTI named .nii.gz")
def plain_named_gzip(raw: Path) -> None:
    image(raw).write_bytes(gzip.decompress(image(raw).read_bytes()))


@odd("plain NIfTI cut", "unreadable-image", names=f"{FIRST}_0000.nii", recipe=PLAIN)
def plain_cut(raw: Path) -> None:
    cut(image(raw), 0.9)


@odd("plain NIfTI, header only", "unreadable-image", names=f"{FIRST}_0000.nii", recipe=PLAIN)
def plain_header(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes()[:352])


@odd("plain NIfTI longer than its header says", "unreadable-image", names=f"{FIRST}_0000.nii", recipe=PLAIN)
def plain_long(raw: Path) -> None:
    image(raw).write_bytes(image(raw).read_bytes() + bytes(64))


@odd("label file: gzip stream cut", "unreadable-label", names=LABEL)
def label_cut(raw: Path) -> None:
    cut(label(raw), 0.7)


@odd("label file empty", "unreadable-label", names=LABEL)
def label_empty(raw: Path) -> None:
    label(raw).write_bytes(b"")


@odd("label file: gzip stream with a wrong CRC-32", "unreadable-label", names=LABEL)
def label_crc(raw: Path) -> None:
    change(label(raw), lambda content: content.__setitem__(-6, content[-6] ^ 1))


@odd("image and label file of one case damaged", "unreadable-label", "unreadable-image", names=LABEL)
def both_damaged(raw: Path) -> None:
    cut(image(raw), 0.5)
    cut(label(raw), 0.5)


@odd("TIFF cut", "unreadable-image", names=f"{FIRST}_0000.tif", recipe=STACK)
def tiff_cut(raw: Path) -> None:
    cut(image(raw), 0.8)
