"""The demo's public dataset: fetched from a server of the test, checked, kept, cut down; and what goes wrong."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import demo
import excerpt
import pytest
from excerpt import is_older_zip, take_excerpt
from fetch import FetchError, fetch
from holdout import HoldOutError

from core.conversion.layouts import tell_layout
from core.conversion.survey import survey
from core.domain.conversion import Layout
from core.domain.progress import SilentObserver
from core.errors import DomainError
from tests.factories import Recipe, case_name, make_dataset, zip_folder
from tests.older_layouts import FOUR_AXES, OBLIQUE, make_older
from worker.archive import unpack

MANY = replace(OBLIQUE, cases=7, shape=(2, 4, 4))

NAME = "Task04_Hippocampus"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files of a folder, and counts how often."""

    served: list[str]

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the library
        """Keep silent."""

    def do_GET(self) -> None:
        self.served.append(self.path)
        super().do_GET()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on a free port; yield the address and what was asked for."""
    served: list[str] = []
    handler = type("Handler", (Quiet,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pack(source: Path, archive: Path) -> Path:
    """Write a tar as the Decathlon's are: one top folder, and a `._` beside each file."""
    with tarfile.open(archive, "w") as packed:
        packed.add(source, NAME)
        for path in source.rglob("*.nii.gz"):
            member = tarfile.TarInfo(f"{NAME}/{path.parent.name}/._{path.name}")
            member.size = 4
            packed.addfile(member, io.BytesIO(b"\x00\x05\x16\x07"))
    return archive


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def ignore(*_: object) -> None:
    """Hear of progress."""


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    return pack(make_older(tmp_path / "made", MANY, tests=2), tmp_path / "web" / f"{NAME}.tar")


def test_a_file_is_downloaded_once(tar: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    with serving(tar.parent) as (address, served):
        for _ in range(2):
            found = fetch(
                f"{address}/{tar.name}",
                md5_of(tar),
                tmp_path / "cache",
                lambda done, total: heard.append((done, total)),
            )

    assert found.read_bytes() == tar.read_bytes()
    assert served == [f"/{tar.name}"]
    assert heard[-1] == (tar.stat().st_size, tar.stat().st_size)
    assert [path.name for path in found.parent.iterdir()] == [tar.name]


def test_a_kept_file_that_changed_is_downloaded_again(tar: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / tar.name).write_bytes(b"half of it")

    with serving(tar.parent) as (address, _):
        found = fetch(f"{address}/{tar.name}", md5_of(tar), tmp_path / "cache", ignore)

    assert found.read_bytes() == tar.read_bytes()


def test_another_file_than_expected_is_not_kept(tar: Path, tmp_path: Path) -> None:
    with serving(tar.parent) as (address, _), pytest.raises(FetchError, match="another file than expected"):
        fetch(f"{address}/{tar.name}", "0" * 32, tmp_path / "cache", ignore)

    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.tar", "ftp://a/x.tar", "x.tar"])
def test_without_internet_a_sentence_says_what_to_do(tmp_path: Path, address: str) -> None:
    with pytest.raises(FetchError, match=r"offline\?.*make demo DATASET=path/to/x\.tar"):
        fetch(address, "0" * 32, tmp_path / "cache", ignore)

    assert list((tmp_path / "cache").iterdir()) == []


def test_a_server_that_has_no_such_file_is_told_apart(tar: Path, tmp_path: Path) -> None:
    with serving(tar.parent) as (address, _), pytest.raises(FetchError, match="answers 404"):
        fetch(f"{address}/other.tar", "0" * 32, tmp_path / "cache", ignore)


def test_an_excerpt_has_the_layout_of_the_whole(tar: Path, tmp_path: Path) -> None:
    task = take_excerpt(tar, tmp_path / "work", cases=3)

    (tmp_path / "unpacked").mkdir()
    unpack(task.dataset, tmp_path / "unpacked", excerpt.LIMITS, SilentObserver())
    raw = tmp_path / "unpacked" / NAME
    found = survey(raw)
    assert (tell_layout(raw), len(found.cases), found.problems) == (Layout.DECATHLON, 3, ())
    assert found.notes == ()
    assert [path.name for path in task.images] == [f"{case_name(6)}.nii.gz"]
    assert task.reference.name == f"{case_name(6)}.nii.gz"
    assert case_name(6) not in {case.case_id for case in found.cases}
    assert (task.name, task.labels) == (NAME, {"background": 0, "left": 1, "right": 2})
    assert task.epochs == excerpt.EPOCHS


@pytest.mark.parametrize("kind", ["folder", "zip", "tar of the old nnU-Net"])
def test_an_excerpt_is_taken_of_whatever_it_comes_in(tmp_path: Path, kind: str) -> None:
    is_v1 = "old" in kind
    recipe = replace(FOUR_AXES, cases=4, shape=(2, 4, 4))
    folder = make_older(tmp_path / NAME, recipe, Layout.V1 if is_v1 else Layout.DECATHLON)
    source = {
        "folder": lambda: folder,
        "zip": lambda: zip_folder(folder, tmp_path / "x.zip", inside=NAME),
        "tar of the old nnU-Net": lambda: pack(folder, tmp_path / "x.tar"),
    }[kind]()

    task = take_excerpt(source, tmp_path / "work")

    assert len(task.images) == (2 if is_v1 else 1)
    with zipfile.ZipFile(task.dataset) as packed:
        assert sum("imagesTr/" in name for name in packed.namelist()) == (6 if is_v1 else 3)
    assert str(Layout.V1 if is_v1 else Layout.DECATHLON) in task.story


def test_a_folder_of_the_new_layout_is_taken_whole(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "Dataset001_Made", Recipe(cases=4, shape=(2, 4, 4)))

    task = take_excerpt(folder, tmp_path / "work")

    assert task.name == "Dataset001_Made"
    assert "3 cases" in task.story


def test_zips_of_both_layouts_are_told_apart(tmp_path: Path) -> None:
    older = zip_folder(make_older(tmp_path / "old", MANY), tmp_path / "old.zip", inside="Task")
    newer = zip_folder(make_dataset(tmp_path / "new", Recipe(cases=1, shape=(2, 4, 4))), tmp_path / "new.zip")
    (tmp_path / "none.zip").write_bytes(b"no zip")

    assert [is_older_zip(path) for path in (older, newer, tmp_path / "none.zip")] == [True, False, False]


@pytest.mark.parametrize(
    "kind", ["absent", "no tar", "cut tar", "one case", "incomplete", "outside", "large"]
)
def test_a_dataset_that_cannot_be_used_is_refused_with_a_sentence(
    tar: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "x.tar"
    if kind == "no tar":
        source.write_bytes(b"hello" * 1000)
    if kind == "cut tar":
        source.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    if kind == "one case":
        pack(make_older(tmp_path / "one", replace(MANY, cases=1)), source)
    if kind == "incomplete":
        folder = make_older(tmp_path / "some", MANY)
        (folder / "labelsTr" / f"{case_name(1)}.nii.gz").unlink()
        pack(folder, source)
    if kind == "outside":
        with tarfile.open(source, "w") as packed:
            member = tarfile.TarInfo("../escaped")
            member.size = 2
            packed.addfile(member, io.BytesIO(b"hi"))
    if kind == "large":
        monkeypatch.setattr(excerpt, "LIMITS", excerpt.LIMITS.model_copy(update={"unpacked_bytes": 1000}))
        source = tar

    with pytest.raises((HoldOutError, DomainError)) as refused:
        take_excerpt(source, tmp_path / "work")

    assert len(str(refused.value)) > 20
    assert not (tmp_path / "work" / "escaped").exists()
    assert not (tmp_path / "escaped").exists()


def test_the_demo_ends_with_that_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "demo.py",
        "--dataset",
        "hippocampus",
        "--address",
        "http://127.0.0.1:1/Task04_Hippocampus.tar",
    ]
    monkeypatch.setattr("sys.argv", [*arguments, "--output", str(tmp_path / "output")])
    monkeypatch.setattr("signal.signal", lambda *_: None)

    assert demo.main() == 1

    told = " ".join(capsys.readouterr().out.split())
    assert "make demo DATASET=path/to/Task04_Hippocampus.tar" in told


def test_the_demo_finds_its_task(tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tar.parent) as (address, _):
        where = [
            "--address",
            f"{address}/{tar.name}",
            "--md5",
            md5_of(tar),
            "--output",
            str(tmp_path / "output"),
        ]
        monkeypatch.setattr("sys.argv", ["demo.py", "--dataset", "hippocampus", "--cases", "4", *where])

        task = demo._task(demo._arguments(), tmp_path / "input")

    assert (tmp_path / "output" / "downloads" / tar.name).is_file()
    assert "4 of 7 cases" in task.story
