"""A first look at an uploaded archive: whether it is a whole zip; what is in it, the job tells that unpacks it."""

import zipfile

from app.storage import Incoming

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""How an archive begins: with its first entry, or with the end of an empty one."""


def zip_fault(archive: Incoming, noun: str) -> str | None:
    """Say why a received file is no whole zip archive; None if it is one.

    Args:
        archive: Closed.
        noun: What it should hold: `dataset folder`.
    """
    if not archive.head.startswith(ZIP_STARTS):
        return f"this is not a zip archive; send the {noun} as a .zip file"
    if not zipfile.is_zipfile(archive.path):
        return "the zip archive has no end: the upload was cut off; send it again"
    return None
