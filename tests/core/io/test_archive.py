"""What a zip may hold, and what it may not: the attack list for archives."""

import resource
import stat
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from core.domain.progress import Progress, SilentObserver
from core.errors import ArchiveError, CancelledError
from core.io.archive import ArchiveLimits, unpack

LIMITS = ArchiveLimits(files=100, unpacked_bytes=64 * 2**20, ratio=200)

Entry = tuple[str, bytes]
Write = Callable[..., Path]


@pytest.fixture
def zipped(tmp_path: Path) -> Write:
    """Write a zip of some entries, their names just as given."""

    def write(*entries: Entry, change: Callable[[zipfile.ZipInfo], object] = lambda _: None) -> Path:
        archive = tmp_path / "dataset.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in entries:
                member = zipfile.ZipInfo("x")
                member.filename = name
                member.compress_type = zipfile.ZIP_DEFLATED
                change(member)
                opened.writestr(member, content)
        return archive

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder inside another, so that what leaves it can be seen."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    return inner


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refuse(archive: Path, folder: Path, sentence: str, limits: ArchiveLimits = LIMITS) -> None:
    """Expect a refusal that says so, with nothing outside the folder."""
    with pytest.raises(ArchiveError, match=sentence):
        unpack(archive, folder, limits, SilentObserver())
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_a_harmless_archive_comes_out_byte_for_byte(zipped: Write, folder: Path) -> None:
    entries = {"dataset.json": b"{}", "imagesTr/a b_0000.nii.gz": bytes(3000), "labelsTr/größe.nii.gz": b"x"}

    unpack(zipped(*entries.items()), folder, LIMITS, SilentObserver())

    assert files_below(folder) == entries


def test_what_has_no_room_on_the_disk_is_not_begun(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "dataset.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dataset.json", b"{}")
        opened.writestr("imagesTr/large.nii.gz", b"x")
        opened.filelist[1].file_size = 2**60  # Only the directory says so, which is written at the end.
    limits = ArchiveLimits(files=100, unpacked_bytes=2**62, ratio=2**60)

    with pytest.raises(OSError, match=r"unpacks to 1073741824\.0 GiB, but only [0-9.]+ GiB are free"):
        unpack(archive, folder, limits, SilentObserver())

    assert files_below(folder) == {}


def test_what_desktop_systems_add_is_left_out(zipped: Write, folder: Path) -> None:
    clutter = [
        ("__MACOSX/Dataset/._dataset.json", b"m"),
        ("Dataset/.DS_Store", b"m"),
        ("Dataset/imagesTr/Thumbs.db", b"m"),
        ("Dataset/", b""),
    ]

    unpack(zipped(("Dataset/dataset.json", b"{}"), *clutter), folder, LIMITS, SilentObserver())

    assert files_below(folder) == {"Dataset/dataset.json": b"{}"}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "//server/x",
        "C:\\x",
        "C:x",
        "..\\x",
        "a\\..\\..\\x",
        "%2e%2e%2fx",
        "%252e%252e/x",
        "a/./x",
        "a//x",
        "",
        ".",
        "..",
        "a/../",
        "x\x00.nii.gz",
        "x\ny",
        "x\x1b[2Jy",
        "x\u202eyz",
        "x.",
        "x ",
        "folder./x",
        "...",
        "con",
        "a/LPT1.txt",
        "x" * 201,
        "ü" * 101,
        "/".join(["folder"] * 200),
        "/".join(["a"] * 17),
    ],
)
def test_a_name_that_is_not_plain_is_refused(zipped: Write, folder: Path, name: str) -> None:
    refuse(zipped(("dataset.json", b"{}"), (name, b"x")), folder, "unsafe name")


@pytest.mark.parametrize(
    "names",
    [("a/x", "a/x"), ("a/x", "A/X"), ("straße", "STRASSE"), ("caf\u00e9", "cafe\u0301")],
    ids=["same", "case", "sharp s", "composed"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused(zipped: Write, folder: Path, names: tuple[str, str]) -> None:
    refuse(zipped(*((name, b"x") for name in names)), folder, "twice")


def test_a_file_in_the_place_of_a_folder_is_refused(zipped: Write, folder: Path) -> None:
    refuse(zipped(("a", b"x"), ("A/x", b"x")), folder, "both a file and a folder")


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
)
def test_links_and_devices_are_refused(zipped: Write, folder: Path, kind: int) -> None:
    def mark(member: zipfile.ZipInfo) -> None:
        member.external_attr = (kind | 0o777) << 16

    refuse(zipped(("x", b"/etc/passwd"), change=mark), folder, "link or a device")


def test_a_link_in_the_clothes_of_a_folder_is_refused(zipped: Write, folder: Path) -> None:
    def mark(member: zipfile.ZipInfo) -> None:
        member.external_attr = (stat.S_IFLNK | 0o777) << 16

    refuse(zipped(("x/", b""), change=mark), folder, "link or a device")


@pytest.mark.parametrize("bit", [0x1, 0x40, 0x2000])
def test_encrypted_files_are_refused(zipped: Write, folder: Path, bit: int) -> None:
    archive = zipped(("x", b"secret"))
    _patch_directory(archive, 8, struct.pack("<H", bit))

    refuse(archive, folder, "password")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93, 99])
def test_unusual_compression_is_refused(zipped: Write, folder: Path, method: int) -> None:
    archive = zipped(("x", b"content"))
    _patch_directory(archive, 10, struct.pack("<H", method))

    refuse(archive, folder, "zip with deflate")


def test_too_many_files_are_refused_before_they_fill_the_memory(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "many.zip"
    names = [f"{number:06d}".encode() for number in range(200_000)]
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 6, 0)
    local = b"".join(header + name for name in names)
    directory = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 36 * number)
        + name
        for number, name in enumerate(names)
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0)
    archive.write_bytes(local + directory + end)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(archive, folder, "more than 100 files")

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_a_bomb_by_ratio_is_refused(zipped: Write, folder: Path) -> None:
    refuse(zipped(("zeros", bytes(30 * 2**20))), folder, "times its size")


def test_small_files_may_compress_well(zipped: Write, folder: Path) -> None:
    unpack(zipped(("zeros", bytes(2**20))), folder, LIMITS, SilentObserver())

    assert len(files_below(folder)["zeros"]) == 2**20


def test_a_bomb_by_total_size_is_refused(zipped: Write, folder: Path) -> None:
    tight = LIMITS.model_copy(update={"unpacked_bytes": 1000})

    refuse(zipped(("a", bytes(600)), ("b", bytes(600))), folder, "unpacks to 1200 bytes", tight)


def test_only_what_is_wanted_is_unpacked_but_all_is_checked(zipped: Write, folder: Path) -> None:
    unpack(zipped(("a", b"x"), ("b", b"y")), folder, LIMITS, SilentObserver(), lambda name: name == "a")

    assert files_below(folder) == {"a": b"x"}
    with pytest.raises(ArchiveError, match="unsafe name"):
        unpack(
            zipped(("a", b"x"), ("../b", b"y")), folder, LIMITS, SilentObserver(), lambda name: name == "a"
        )


def test_a_nested_archive_stays_packed(zipped: Write, folder: Path, tmp_path: Path) -> None:
    inner = zipped(("zeros", bytes(30 * 2**20))).rename(tmp_path / "inner.zip").read_bytes()

    unpack(zipped(("inner.zip", inner)), folder, LIMITS, SilentObserver())

    assert files_below(folder) == {"inner.zip": inner}


def test_overlapping_files_are_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"same"), ("b", b"same"))
    _patch_directory(archive, 42, struct.pack("<L", 0), entry=1)

    refuse(archive, folder, "overlap")


def test_a_quoted_file_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"first"), ("b", b"second"))
    with zipfile.ZipFile(archive) as opened:
        start = opened.infolist()[1].header_offset
    _patch_directory(archive, 20, struct.pack("<L", start))

    refuse(archive, folder, "overlap")


@pytest.mark.parametrize("claimed", [0, 3, 5, 4000])
def test_a_size_that_lies_is_found_out(zipped: Write, folder: Path, claimed: int) -> None:
    archive = zipped(("a", b"abcd"))
    _patch_directory(archive, 24, struct.pack("<L", claimed))

    refuse(archive, folder, "no usable zip file|not as long as it says")


def test_a_huge_claimed_size_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd"))
    _patch_directory(archive, 24, struct.pack("<L", 0xFFFFFFF0))

    refuse(archive, folder, "unpacks to")


def test_a_wrong_checksum_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd"))
    _patch_directory(archive, 16, b"\x00\x00\x00\x00")

    refuse(archive, folder, "no usable zip file")


def test_a_damaged_stream_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", bytes(range(256)) * 40))
    content = bytearray(archive.read_bytes())
    content[40:60] = b"\xff" * 20
    archive.write_bytes(content)

    refuse(archive, folder, "no usable zip file")


def test_every_truncation_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd" * 50), ("b", b"x"))
    whole = archive.read_bytes()

    for length in range(len(whole)):
        archive.write_bytes(whole[:length])
        refuse(archive, folder, ".")
        (folder / "a").unlink(missing_ok=True)


def test_every_flipped_byte_is_refused_or_harmless(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd" * 5), ("b/c", b"x"))
    whole = archive.read_bytes()

    for position in range(len(whole)):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with suppress(ArchiveError):
            unpack(archive, folder, LIMITS, SilentObserver())
        assert len(list(folder.parent.iterdir())) == 1
        for name in files_below(folder):
            (folder / name).unlink()


@pytest.mark.parametrize("before", [b"MZ", b"%PDF-1.7 " * 10])
def test_something_before_the_first_file_is_refused(zipped: Write, folder: Path, before: bytes) -> None:
    archive = zipped(("a", b"abcd"))
    archive.write_bytes(before + archive.read_bytes())

    refuse(archive, folder, "begins with something else")


def test_two_archives_in_one_are_refused(zipped: Write, folder: Path) -> None:
    first = zipped(("a", b"first")).read_bytes()
    archive = zipped(("a", b"second"))
    archive.write_bytes(first + archive.read_bytes())

    refuse(archive, folder, "begins with something else")


def test_something_after_the_end_is_refused(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd"))
    archive.write_bytes(archive.read_bytes() + b"more")

    refuse(archive, folder, "goes on after its end")


def test_an_archive_with_a_comment_is_accepted(zipped: Write, folder: Path) -> None:
    archive = zipped(("a", b"abcd"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"made by hand"

    unpack(archive, folder, LIMITS, SilentObserver())

    assert files_below(folder) == {"a": b"abcd"}


def test_a_large_format_archive_is_accepted(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "large.zip"
    with zipfile.ZipFile(archive, "w") as opened, opened.open("a", "w", force_zip64=True) as member:
        member.write(b"abcd")
    _make_large(archive)

    unpack(archive, folder, LIMITS, SilentObserver())

    assert files_below(folder) == {"a": b"abcd"}


@pytest.mark.parametrize("size", [1, 2**40, 2**64 - 1])
def test_a_large_format_that_lies_about_its_directory_is_refused(
    tmp_path: Path, folder: Path, size: int
) -> None:
    archive = tmp_path / "large.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a", b"abcd")
    _make_large(archive, size=size)

    refuse(archive, folder, ".")


def test_a_directory_cannot_hide_behind_a_smaller_one(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "hidden.zip"
    few = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    end = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(few), 0
    )  # fmt: skip
    with zipfile.ZipFile(archive, "w") as opened:
        for number in range(200):
            opened.writestr(f"{number}", b"")
        last = opened.infolist()[-1]
        last.comment = few + end + bytes(20)

    assert len(zipfile.ZipFile(archive).infolist()) == 200
    refuse(archive, folder, "more than 100 files")


def test_a_large_format_whose_end_is_elsewhere_is_refused(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "large.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a", b"abcd")
    _make_large(archive)
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 8] ^= 1
    archive.write_bytes(content)

    refuse(archive, folder, "directory of the archive is damaged")


class StopsAtOnce(SilentObserver):
    def stop_requested(self) -> bool:
        return True


def test_unpacking_stops_when_it_is_asked_to(zipped: Write, folder: Path) -> None:
    with pytest.raises(CancelledError):
        unpack(zipped(("a", b"x")), folder, LIMITS, StopsAtOnce())


def test_progress_counts_bytes(zipped: Write, folder: Path) -> None:
    heard: list[Progress] = []

    class Listens(SilentObserver):
        def report(self, progress: Progress) -> None:
            heard.append(progress)

    unpack(zipped(("a", bytes(100)), ("b", bytes(50))), folder, LIMITS, Listens())

    assert [(one.stage, one.done, one.total) for one in heard] == [("unpack", 100, 150), ("unpack", 150, 150)]


def _patch_directory(archive: Path, offset: int, value: bytes, entry: int = 0) -> None:
    """Overwrite bytes of an entry in the directory, and of its local header where it has the same field."""
    content = bytearray(archive.read_bytes())
    start = -1
    for _ in range(entry + 1):
        start = content.index(b"PK\x01\x02", start + 1)
    content[start + offset : start + offset + len(value)] = value
    if 8 <= offset < 12:
        content[offset - 2 : offset - 2 + len(value)] = value
    archive.write_bytes(content)


def _make_large(archive: Path, size: int | None = None) -> None:
    """Give an archive of one file the end of a zip64."""
    content = archive.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    directory_size, start = struct.unpack_from("<LL", content, end + 12)
    large = struct.pack(
        "<4sQ2H2L4Q",
        b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, directory_size if size is None else size, start,
    )  # fmt: skip
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive.write_bytes(content[:end] + large + locator + last)
