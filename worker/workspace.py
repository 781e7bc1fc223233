"""Scratch folders addressed by content: fetched or built once, shared by jobs, never the only copy."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from app.jobs import ObjectRef, PreprocessResult, WorkOrder
from app.storage import LocalStore, StoreError, copy_hashing, flush_folder
from core.domain.model import CHECKPOINT_FILE
from core.domain.progress import Observer, Progress
from core.errors import CancelledError
from worker.archive import ArchiveLimits, dataset_root
from worker.raw import RAW_VERSION, build_raw

CASE_SUFFIX = ".npz"
"""Of a preprocessed case, as `core.io.case_store` names it."""

PARTIAL_SUFFIX = ".partial"
"""Of a folder that is being built, or was left by a build that was interrupted."""

LOCK_POLL_SECONDS = 0.1
"""Between two tries to get a lock; a process that waits can still be asked to stop."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """One worker's scratch folder and the store that it is filled from."""

    folder: Path
    store: LocalStore
    limits: ArchiveLimits

    def raw_dataset(self, archive: ObjectRef, observer: Observer) -> Path:
        """Return the dataset of an archive in nnU-Net v2's layout, the folder that holds dataset.json.

        Older layouts are converted; the archive itself stays as it came. Files are the same on every machine.

        Raises:
            ArchiveError: The archive is refused; nothing of it stays.
            DatasetError: It has an older layout and cannot be converted at all; nothing of it stays.
            CancelledError: The observer asked to stop.
        """
        target = self.folder / "datasets" / f"{archive.sha256}-{RAW_VERSION}"
        build_once(
            target,
            lambda folder: build_raw(self.store.path(archive), folder, self.limits, observer),
            observer,
        )
        return dataset_root(target)

    def preprocessed(self, digest: str) -> Path:
        """Return where preprocessed cases of this `preprocessing_digest` belong, there or not."""
        return self.folder / "preprocessed" / digest

    def other_preprocessed(self, digest: str) -> tuple[Path, ...]:
        """Return all other folders of preprocessed cases on this machine, the newest first."""
        folders = [path for path in (self.folder / "preprocessed").glob("*") if path.is_dir()]
        others = [path for path in folders if path.name != digest and path.suffix != PARTIAL_SUFFIX]
        return tuple(sorted(others, key=lambda path: path.stat().st_mtime, reverse=True))

    def fetch_preprocessed(self, result: PreprocessResult, observer: Observer) -> Path:
        """Return the folder of preprocessed cases, fetched now if this machine does not have it.

        Raises:
            StoreError: An object is missing or its bytes are not those that were stored.
            CancelledError: The observer asked to stop.
        """
        target = self.preprocessed(result.digest)
        files = {
            f"{case_id}{CASE_SUFFIX}": result.files[case_object(number)]
            for number, case_id in enumerate(result.cases)
        }
        build_once(target, lambda folder: self._fetch(files, folder, observer), observer)
        return target

    def training(self, order: WorkOrder) -> Path:
        """Return the model folder of one claim of a training; nobody else ever writes there."""
        folder = self._trainings(order.job_id) / str(order.fence)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def earlier_trainings(self, order: WorkOrder) -> list[Path]:
        """Return the model folders that earlier claims of a training left on this machine, newest first."""
        fences = [int(folder.name) for folder in self._trainings(order.job_id).glob("*")]
        return [
            self._trainings(order.job_id) / str(fence)
            for fence in sorted(fences, reverse=True)
            if fence < order.fence
        ]

    def fetch_checkpoint(self, ref: ObjectRef, target: Path, observer: Observer) -> None:
        """Bring a checkpoint from the store.

        Raises:
            StoreError: It is missing or damaged.
            CancelledError: The observer asked to stop.
        """
        self._fetch({target.name: ref}, target.parent, observer)

    def model(self, files: Mapping[str, ObjectRef], observer: Observer) -> Path:
        """Return a model folder with these files, each verified by its hash.

        Raises:
            StoreError: An object is missing or its bytes are not those that were stored.
            CancelledError: The observer asked to stop.
        """
        content = json.dumps({path: ref.sha256 for path, ref in files.items()}, sort_keys=True)
        target = self.folder / "models" / hashlib.sha256(content.encode()).hexdigest()
        build_once(target, lambda folder: self._fetch(files, folder, observer), observer)
        return target

    def outbox(self, order: WorkOrder) -> Path:
        """Return an empty folder for the files that a claim of a job hands over."""
        self.clear_outbox(order)
        folder = self._outbox(order.job_id, order.fence)
        folder.mkdir(parents=True)
        return folder

    def clear_outbox(self, order: WorkOrder) -> None:
        """Remove what a claim of a job handed over, and what earlier ones left; never what a later one has."""
        for fence in range(order.fence + 1):
            shutil.rmtree(self._outbox(order.job_id, fence), ignore_errors=True)

    def clear_training(self, order: WorkOrder, *, keep_last: bool) -> None:
        """Remove what this claim of a training and earlier ones left; never what a later one has.

        Args:
            order: Of the claim.
            keep_last: Whether the job goes on, so that this claim's folder is still needed.
        """
        last = self._trainings(order.job_id) / str(order.fence)
        if keep_last and not any(last.glob(f"*/{CHECKPOINT_FILE}")):
            return  # This claim ended before it took over what earlier ones have.
        for folder in self.earlier_trainings(order):
            shutil.rmtree(folder, ignore_errors=True)
        if not keep_last:
            shutil.rmtree(last, ignore_errors=True)
            with suppress(OSError):
                self._trainings(order.job_id).rmdir()

    def trainings(self, untouched_for_seconds: float) -> list[UUID]:
        """Return the training jobs that left something on this machine, and claimed nothing for a while."""
        latest = time.time() - untouched_for_seconds
        folders = (self.folder / "trainings").glob("*-*-*-*-*")
        return [UUID(folder.name) for folder in folders if folder.stat().st_mtime <= latest]

    def forget_training(self, job_id: UUID) -> None:
        """Remove all that a training job left on this machine, once it has ended wherever."""
        shutil.rmtree(self._trainings(job_id), ignore_errors=True)

    def _trainings(self, job_id: UUID) -> Path:
        return self.folder / "trainings" / str(job_id)

    def _outbox(self, job_id: UUID, fence: int) -> Path:
        return self.folder / "outbox" / f"{job_id}-{fence}"

    def _fetch(self, files: Mapping[str, ObjectRef], folder: Path, observer: Observer) -> None:
        """Copy objects into a folder, comparing hashes on the way.

        Raises:
            StoreError: An object is missing or its bytes are not those that were stored.
            CancelledError: The observer asked to stop.
        """
        for done, (path, ref) in enumerate(files.items()):
            if observer.stop_requested():
                raise CancelledError("stopped while files were fetched from the store")
            observer.report(Progress(stage="fetch", done=done, total=len(files)))
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.store.path(ref).open("rb") as reader, target.open("wb") as writer:
                if copy_hashing(reader.read, writer.write) != ref.sha256:
                    raise StoreError(f"the stored object {ref.key} is damaged; restore it from a backup")


def build_once(
    target: Path, build: Callable[[Path], object], observer: Observer, *, goes_on: bool = False
) -> None:
    """Make a folder unless it is there; processes that want the same one wait for each other.

    Args:
        target: Appears whole or not at all.
        build: Fills the folder that it is given; it is empty, unless the build goes on.
        observer: Asked whether to go on waiting.
        goes_on: Whether the build takes up what an interrupted one left, which therefore stays.

    Raises:
        CancelledError: The observer asked to stop while another process was building.
    """
    with locked(target.with_name(target.name + ".lock"), observer):
        if target.is_dir():
            return
        partial = target.with_name(target.name + PARTIAL_SUFFIX)
        if not goes_on:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=goes_on)
        try:
            build(partial)
            _flush(partial)
            partial.rename(target)
            flush_folder(target.parent)
        finally:
            if not goes_on:
                shutil.rmtree(partial, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring a whole folder to the disk: whoever finds it after a power cut takes it for complete."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        flush_folder(Path(parent))


@contextmanager
def locked(file: Path, observer: Observer) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends.

    Raises:
        CancelledError: The observer asked to stop while another process held the lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as handle:  # Closing it lets go.
        while not _try_lock(handle):
            if observer.stop_requested():
                raise CancelledError("stopped while another process did the same work")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(handle: BinaryIO) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file in a second place without a second copy where the disk allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def case_object(number: int) -> str:
    """Name the file of a preprocessed case in the store, by the case's place in the result."""
    return f"{number}{CASE_SUFFIX}"


def is_readable(result: PreprocessResult) -> bool:
    """Return whether preprocessed cases are stored as this release reads them; the one before used folders."""
    return set(result.files) == {case_object(number) for number in range(len(result.cases))}
