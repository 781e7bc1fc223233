"""Where a dataset lies in what an archive held, and disks that are too small for it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.errors import StorageFullError
from core.domain.progress import SilentObserver
from core.errors import ArchiveError
from core.io.archive import ArchiveLimits
from worker.archive import dataset_root, unpack


@pytest.mark.parametrize("name", ["dataset.json", "Dataset/dataset.json"])
def test_a_dataset_is_found_at_the_top_or_one_folder_below(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()

    assert dataset_root(tmp_path) == (tmp_path / name).parent


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["readme.txt"], "no dataset.json"),
        (["a/dataset.json", "b/dataset.json"], "more than one dataset.json"),
    ],
)
def test_an_archive_of_no_single_dataset_is_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    with pytest.raises(ArchiveError, match=sentence):
        dataset_root(tmp_path)


def test_what_has_no_room_on_the_disk_is_not_begun(tmp_path: Path) -> None:
    archive = tmp_path / "dataset.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("dataset.json", b"{}")
        opened.writestr("imagesTr/large.nii.gz", b"x")
        opened.filelist[1].file_size = 2**60  # Only the directory says so, which is written at the end.
    limits = ArchiveLimits(files=100, unpacked_bytes=2**62, ratio=2**60)

    with pytest.raises(
        StorageFullError,
        match=r"unpacks to .* GiB, but only [0-9.]+ GiB are free; free some.*SEG_WORKSPACE_DIR",
    ):
        unpack(archive, tmp_path, limits, SilentObserver())

    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on file sizes stands in for a full disk")
def test_a_full_disk_says_so(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from app.errors import StorageFullError
from core.domain.progress import SilentObserver
from core.io.archive import ArchiveLimits
from worker.archive import unpack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    limits = ArchiveLimits(files=9, unpacked_bytes=10**6, ratio=10**6)
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), limits, SilentObserver())
except StorageFullError as error:
    print(error.message)
"""
    archive = tmp_path / "dataset.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a", bytes(5000))

    done = subprocess.run(
        [sys.executable, "-c", program, archive, tmp_path], capture_output=True, text=True, check=True
    )

    assert "the disk of the service is full" in done.stdout
