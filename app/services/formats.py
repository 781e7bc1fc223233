"""Image formats of uploads, told by name, media type and first bytes; nothing is decoded."""

import zlib

from core.errors import ImageError

NIFTI_HEADER_BYTES = 348
"""Size of a NIfTI-1 header; its magic word stands at byte 344."""

NIFTI_MAGIC = slice(344, 348)

ENDINGS = {
    ".nii.gz": "nifti-gz",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".mha": "metaimage",
    ".gipl": "gipl",
    ".png": "png",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
"""File ending → what the content must be; longest first."""

STANDARD_ENDING = {
    "nifti-gz": ".nii.gz",
    "nifti": ".nii",
    "nrrd": ".nrrd",
    "metaimage": ".mha",
    "gipl": ".gipl",
    "png": ".png",
    "bmp": ".bmp",
    "tiff": ".tif",
}
"""What a file without a telling name is called."""

MEDIA_TYPES = {
    ".nii.gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".nrrd": "application/octet-stream",
    ".mha": "application/octet-stream",
    ".gipl": "application/octet-stream",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
"""With which type a file of this ending is sent."""

GIPL_MAGIC = slice(252, 256)
GIPL_MAGICS = (b"\xef\xff\xe9\xb0", b"\x2a\xe3\x89\xb8")
"""Last word of a GIPL header, in either version."""

GZIP_START = b"\x1f\x8b"

STARTS = {
    "nrrd": (b"NRRD000",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "bmp": (b"BM",),
    "tiff": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "metaimage": (b"ObjectType", b"NDims"),
}
"""How files of the other formats begin; TIFF in both byte orders, and its form for large files."""


def file_ending(name: str | None, head: bytes) -> str:
    """Tell the format of an uploaded image; its content decides, its name only chooses between synonyms.

    Args:
        name: As the client sent it, possibly a whole path, or None.
        head: The first bytes, some thousand.

    Raises:
        ImageError: It is none of the formats that can be read, or not what its name says.
    """
    named = _ending_of_name(name)
    content = _sniff(head)
    if content is None:
        said = (
            f"the file ends in {named}, but its content is not of that format"
            if named
            else "this is no image"
        )
        raise ImageError(f"{said}; send NIfTI (.nii, .nii.gz), NRRD, MHA, GIPL, PNG, BMP or TIFF")
    if named is not None and ENDINGS[named] != content:
        raise ImageError(
            f"the file ends in {named}, but its content is {STANDARD_ENDING[content]}; rename it and send it again"
        )
    return named or STANDARD_ENDING[content]


def _ending_of_name(name: str | None) -> str | None:
    lowered = (name or "").lower()
    return next((ending for ending in ENDINGS if lowered.endswith(ending)), None)


def _sniff(head: bytes) -> str | None:
    """Return which of the formats begins like this."""
    if head.startswith(GZIP_START):
        return "nifti-gz" if _is_nifti(_inflated(head)) else None
    if _is_nifti(head):
        return "nifti"
    begun = head.lstrip()
    told = next((name for name, starts in STARTS.items() if begun.startswith(starts)), None)
    return "gipl" if told is None and head[GIPL_MAGIC] in GIPL_MAGICS else told


def _is_nifti(head: bytes) -> bool:
    """Whether this is a single-file NIfTI-1 or NIfTI-2 header."""
    return head[NIFTI_MAGIC] == b"n+1\x00" or head[4:8] == b"n+2\x00"


def _inflated(head: bytes) -> bytes:
    """Unpack just enough of a gzip stream to see what is inside."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, NIFTI_HEADER_BYTES)
    except zlib.error:
        return b""
