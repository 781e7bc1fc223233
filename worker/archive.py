"""Unpack an uploaded zip without trusting a word of it."""

import stat
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from core.domain.record import Record
from core.errors import DomainError

CHUNK_BYTES = 1024 * 1024
LONGEST_NAME = 200
"""Characters of one path component; file systems end at 255 bytes, and ours get suffixes."""
DEEPEST_PATH = 20
RATIO_FREE_BYTES = 10 * CHUNK_BYTES
"""Below this size nobody is harmed by a high ratio; an empty label map compresses a thousandfold."""
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
ENCRYPTED = 0x1
"""Bit of a member's flags (APPNOTE 4.4.4)."""


class ArchiveError(DomainError):
    """An archive is damaged, hostile or too large."""

    kind = "invalid-archive"


class ArchiveLimits(Record):
    """What an archive may ask of us."""

    files: int
    unpacked_bytes: int
    ratio: float
    """Unpacked size divided by packed size, of the whole."""


def unpack(archive: Path, folder: Path, limits: ArchiveLimits) -> None:
    """Unpack a zip into an empty folder, leaving out what desktop systems add.

    Args:
        archive: The zip.
        folder: An existing empty folder.
        limits: Checked against the archive's own figures first and against the bytes that come out then.

    Raises:
        ArchiveError: Nothing of a refused archive may be used; the caller removes the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened.infolist(), archive.stat().st_size, limits)
            for member in members:
                _write(opened, member, folder.joinpath(*PurePosixPath(member.filename).parts))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as reason:
        raise ArchiveError(f"the archive is no usable zip file ({reason}); make it anew") from reason


def dataset_root(folder: Path) -> Path:
    """Find the folder of dataset.json: the top, or a single folder below it.

    Raises:
        ArchiveError: There is none, or more than one.
    """
    if (folder / "dataset.json").is_file():
        return folder
    found = sorted(file.parent for file in folder.glob("*/dataset.json"))
    if len(found) == 1:
        return found[0]
    where = "more than one dataset.json" if found else "no dataset.json"
    raise ArchiveError(f"the archive has {where} at its top; zip one dataset folder with dataset.json in it")


def _checked(members: Iterable[zipfile.ZipInfo], packed: int, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """Return the files to unpack, or refuse the archive as a whole."""
    files = [member for member in members if not member.is_dir()]
    if len(files) > limits.files:
        raise ArchiveError(f"the archive holds {len(files)} files; at most {limits.files} are accepted")
    total = sum(member.file_size for member in files)
    if total > limits.unpacked_bytes:
        raise ArchiveError(
            f"the archive unpacks to {total} bytes; at most {limits.unpacked_bytes} are accepted"
        )
    if total > RATIO_FREE_BYTES and total > limits.ratio * packed:
        raise ArchiveError(
            f"the archive unpacks to {total / packed:.0f} times its size; that looks like a bomb"
        )
    seen: set[str] = set()
    for member in files:
        _require_harmless(member)
        name = unicodedata.normalize("NFC", member.filename).casefold()
        if name in seen:
            raise ArchiveError(f"the archive holds {member.filename!r} twice (letter case aside)")
        seen.add(name)
    return [member for member in files if not _is_clutter(member.filename)]


def _require_harmless(member: zipfile.ZipInfo) -> None:
    """Refuse what could leave the folder, is no plain file, or cannot be read."""
    name = member.filename
    parts = name.split("/")
    is_unsafe = (
        name.startswith("/")
        or "\\" in name
        or ":" in name
        or "%2e" in name.lower()
        or "%25" in name
        or any(part in ("", ".", "..") or part != part.rstrip(". ") for part in parts)
        or any(unicodedata.category(letter).startswith("C") for letter in name)
    )
    if is_unsafe or len(parts) > DEEPEST_PATH or any(len(part) > LONGEST_NAME for part in parts):
        raise ArchiveError(
            f"the archive holds a file with an unsafe name, {name[:LONGEST_NAME]!r}; rename it"
        )
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ArchiveError(f"{name!r} in the archive is a link or a device; put the file itself in")
    if member.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{name!r} in the archive is encrypted; zip without a password")
    if member.compress_type not in METHODS:
        raise ArchiveError(f"{name!r} is compressed by an unknown method; zip with deflate")


def _is_clutter(name: str) -> bool:
    """Whether a desktop system left the file there (__MACOSX, .DS_Store, Thumbs.db)."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts) or parts[-1] == "Thumbs.db"


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one file; a size field that lies or a wrong checksum ends it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(member) as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            written += len(chunk)
            if written > member.file_size:
                break
            writer.write(chunk)
    if written != member.file_size:
        raise ArchiveError(f"{member.filename!r} in the archive is not as long as it says; make the zip anew")
