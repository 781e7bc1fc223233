"""A zip from anywhere, unpacked without trusting a word of it."""

import errno
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from core.domain.progress import Observer, Progress
from core.domain.record import Record
from core.errors import ArchiveError, CancelledError

CHUNK_BYTES = 1024 * 1024
GIB = 1024**3
LONGEST_PART_BYTES = 200
"""Of one folder or file name in UTF-8; file systems end at 255, and ours get suffixes."""
LONGEST_NAME_BYTES = 1000
"""Of a whole name in UTF-8; systems end at 4096 for the workspace's folder and it together."""
MOST_PARTS = 16
"""Of one name; 10⁵ files, each in hundreds of folders of its own, would use up the disk's inodes."""
RATIO_FREE_BYTES = 10 * CHUNK_BYTES
"""Below this size nobody is harmed by a high ratio; an empty label map compresses a thousandfold."""
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""What every zip program writes by default. LZMA would take as much memory as the archive says."""
ENCRYPTED = 0x1 | 0x40 | 0x2000
"""Bits of an entry's flags: encrypted, strongly encrypted, hidden directory (APPNOTE 4.4.4)."""
DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
"""Names that Windows keeps for devices, whatever their ending."""

ENTRY = struct.Struct("<4s24x3H12x")
"""An entry of the directory: signature, and the lengths of name, extra field and comment (APPNOTE 4.3.12)."""
ENTRY_START = b"PK\x01\x02"
END = struct.Struct("<4s8xL4xH")
"""The end of the directory: signature, size of the directory, length of the comment (APPNOTE 4.3.16)."""
END_START = b"PK\x05\x06"
LARGE_END = struct.Struct("<4s36xQ8x")
"""The same in a zip64: signature, size of the directory (APPNOTE 4.3.14); a locator follows."""
LARGE_END_START = b"PK\x06\x06"
LOCATOR = struct.Struct("<4s4xQ4x")
"""Where a zip64 says that its end begins: signature, position (APPNOTE 4.3.15)."""
LOCATOR_START = b"PK\x06\x07"
LONGEST_COMMENT_BYTES = 0xFFFF
LOCAL_HEADER_BYTES = 30
"""Of an entry's own header, name and extra field aside (APPNOTE 4.3.7)."""


class ArchiveLimits(Record):
    """What an archive may ask of us."""

    files: int
    unpacked_bytes: int
    ratio: float
    """Unpacked size divided by packed size, of the whole."""


def unpack(
    archive: Path,
    folder: Path,
    limits: ArchiveLimits,
    observer: Observer,
    is_wanted: Callable[[str], bool] = lambda _: True,
) -> None:
    """Unpack a zip into an empty folder, leaving out what desktop systems add.

    Args:
        archive: The zip.
        folder: An existing empty folder.
        limits: Checked against the archive's own figures first and against the bytes that come out then.
        observer: Told of bytes.
        is_wanted: Says of a file's name whether to unpack it; all are checked.

    Raises:
        ArchiveError: Nothing of a refused archive may be used; the caller removes the folder.
        CancelledError: The observer asked to stop.
        OSError: The disk is full, or would be, which is seen before anything is written.
    """
    try:
        require_few_entries(archive, limits.files)
        with zipfile.ZipFile(archive) as opened:
            _require_apart(opened.infolist(), opened.start_dir)
            checked = _checked(opened.infolist(), archive.stat().st_size, limits)
            files = [member for member in checked if is_wanted(member.orig_filename)]
            done, total = 0, sum(member.file_size for member in files)
            _require_room(folder, total)
            for member in files:
                for written in _write(opened, member, folder / member.orig_filename):
                    done += written
                    observer.report(Progress(stage="unpack", done=done, total=total))
                    if observer.stop_requested():
                        raise CancelledError("unpacking stopped")
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        ValueError,
    ) as reason:
        raise ArchiveError(f"the archive is no usable zip file ({reason}); make it anew") from reason


def _require_room(folder: Path, needed: int) -> None:
    """Refuse what would fill the disk, before anything is written.

    Raises:
        OSError: There is too little room.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the archive unpacks to {needed / GIB:.1f} GiB, but only {free / GIB:.1f} GiB are free",
        )


def require_few_entries(archive: Path, most: int) -> None:
    """Count entries before zipfile takes all of them into memory, without believing the written count."""
    with archive.open("rb") as file:
        start, size = _directory(file)
        file.seek(start)
        read = count = 0
        while read < size:
            signature, *lengths = ENTRY.unpack(file.read(ENTRY.size))
            if signature != ENTRY_START:
                raise ArchiveError("the directory of the archive is damaged; make the zip anew")
            count += 1
            if count > most:
                raise ArchiveError(f"the archive holds more than {most} files; leave some out")
            file.seek(sum(lengths), 1)
            read += ENTRY.size + sum(lengths)


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Return where the archive's directory begins and how long it is, in bytes."""
    length = file.seek(0, 2)
    tail_start = max(0, length - LONGEST_COMMENT_BYTES - END.size)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(END_START)
    if found < 0:
        raise ArchiveError("the archive has no end: it was cut off; make or send it again")
    _, size, comment = END.unpack_from(tail, found)
    end = tail_start + found
    if end + END.size + comment != length:
        raise ArchiveError("the archive goes on after its end; make the zip anew")
    large = end - LOCATOR.size - LARGE_END.size
    if large >= 0:
        file.seek(large)
        signature, large_size = LARGE_END.unpack(file.read(LARGE_END.size))
        locator, position = LOCATOR.unpack(file.read(LOCATOR.size))
        if locator == LOCATOR_START:  # zipfile looks at this one too; both must see the same directory.
            if signature != LARGE_END_START or position != large:
                raise ArchiveError("the directory of the archive is damaged; make the zip anew")
            end, size = large, large_size
    if size > end:
        raise ArchiveError("the directory of the archive is damaged; make the zip anew")
    return end - size, size


def _require_apart(members: Iterable[zipfile.ZipInfo], end: int) -> None:
    """Refuse entries that share bytes, which makes a bomb, and archives hidden behind something else.

    Args:
        members: All entries.
        end: Where the directory begins, behind the last entry.

    Source:
        D. Fifield, A better zip bomb, USENIX WOOT 2019: overlapping entries.
    """
    ordered = sorted(members, key=lambda member: member.header_offset)
    starts = [member.header_offset for member in ordered]
    if starts and starts[0] != 0:
        raise ArchiveError("the archive begins with something else than its first file; make the zip anew")
    for member, following in zip(ordered, [*starts[1:], end], strict=False):
        if member.header_offset + LOCAL_HEADER_BYTES + member.compress_size > following:
            raise ArchiveError("files in the archive overlap; that looks like a bomb")


def _checked(members: Sequence[zipfile.ZipInfo], packed: int, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """Return the files to unpack, or refuse the archive as a whole."""
    total = sum(member.file_size for member in members)
    if total > limits.unpacked_bytes:
        raise ArchiveError(
            f"the archive unpacks to {total} bytes; at most {limits.unpacked_bytes} are accepted"
        )
    if total > RATIO_FREE_BYTES and total > limits.ratio * packed:
        raise ArchiveError(
            f"the archive unpacks to {total / packed:.0f} times its size; that looks like a bomb"
        )
    for member in members:
        _require_harmless(member)
    files = [member for member in members if not member.orig_filename.endswith("/")]
    _require_distinct([member.orig_filename for member in files])
    return [member for member in files if not _is_clutter(member.orig_filename)]


def _require_distinct(names: Iterable[str]) -> None:
    """Refuse two files of one name on any system, and a file in whose place a folder must be."""
    seen: set[str] = set()
    for name in names:
        same = unicodedata.normalize("NFC", name).casefold()
        if same in seen:
            raise ArchiveError(f"the archive holds {name!r} twice (letter case and accents aside)")
        seen.add(same)
    for same in seen:
        for parent in PurePosixPath(same).parents:
            if str(parent) in seen:
                raise ArchiveError(f"{str(parent)!r} is both a file and a folder in the archive; rename one")


def _require_harmless(member: zipfile.ZipInfo) -> None:
    """Refuse what could leave the folder, is no plain file, or cannot be read."""
    # Not `filename`, which zipfile ends at a NUL.
    name = member.orig_filename
    shown = repr(name[:LONGEST_PART_BYTES])
    if not _is_safe(name.removesuffix("/")):
        raise ArchiveError(f"the archive holds a file with an unsafe name, {shown}; rename it")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        raise ArchiveError(f"{shown} in the archive is a link or a device; put the file itself in")
    if member.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{shown} in the archive is encrypted; zip without a password")
    if member.compress_type not in METHODS:
        raise ArchiveError(f"{shown} is compressed by an unusual method; zip with deflate")


def _is_safe(name: str) -> bool:
    """Whether a name stays inside its folder, and means the same file on every system."""
    lowered = name.lower()
    return (
        len(name.encode()) <= LONGEST_NAME_BYTES
        and name.count("/") < MOST_PARTS
        and not any(unicodedata.category(letter).startswith("C") for letter in name)
        and not any(sign in lowered for sign in ("\\", ":", "%2e", "%2f", "%5c", "%25"))
        and all(_is_safe_part(part) for part in lowered.split("/"))
    )


def _is_safe_part(part: str) -> bool:
    """Whether one folder or file name is harmless; an absolute name begins with an empty one."""
    return (
        part not in ("", ".", "..")
        and part == part.rstrip(". ")
        and len(part.encode()) <= LONGEST_PART_BYTES
        and part.split(".", maxsplit=1)[0] not in DEVICES
    )


def _is_clutter(name: str) -> bool:
    """Whether a desktop system left the file there (__MACOSX, .DS_Store, Thumbs.db)."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts) or parts[-1] == "Thumbs.db"


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> Iterator[int]:
    """Unpack one file, yielding bytes; a size field that lies or a wrong checksum ends it."""
    written = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            written += len(chunk)
            yield len(chunk)
    if written != member.file_size:
        raise ArchiveError(f"{member.filename!r} in the archive is not as long as it says; make the zip anew")
