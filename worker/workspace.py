"""Scratch folders addressed by content: fetched or built once, shared by jobs, never the only copy."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from app.payloads import ObjectRef, PreprocessResult, WorkOrder
from app.storage import LocalStore, StoreError, copy_hashing
from core.domain.model import CHECKPOINT_FILE
from core.domain.progress import Observer, Progress
from core.errors import CancelledError
from core.io.archive import ArchiveLimits
from worker.archive import dataset_root
from worker.raw import RAW_VERSION, build_raw
from worker.shared import PARTIAL_SUFFIX, held, lock_of, locked

CASE_SUFFIX = ".npz"
"""Of a preprocessed case, as `core.io.case_store` names it."""

DATASETS, PREPROCESSED, MODELS = "datasets", "preprocessed", "models"
"""Folders of the workspace whose content jobs share."""

DATASET_SUFFIX = f"-{RAW_VERSION}"
"""Of the folder of an unpacked dataset."""

RECIPE_DIGITS = 16
"""So much of a recipe's digest begins the name of its folders: two that agree in it by chance cost a look."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """One worker's scratch folder and the store that it is filled from.

    Datasets, preprocessed cases and models that it hands out are kept from being removed until `holds` is closed,
    or the process ends.
    """

    folder: Path
    store: LocalStore
    limits: ArchiveLimits
    holds: ExitStack = field(default_factory=ExitStack, compare=False)

    def raw_dataset(self, archive: ObjectRef, observer: Observer) -> Path:
        """Return the dataset of an archive in nnU-Net v2's layout, the folder that holds dataset.json.

        Older layouts are converted; the archive itself stays as it came. Files are the same on every machine.

        Raises:
            ArchiveError: The archive is refused; nothing of it stays.
            DatasetError: It has an older layout and cannot be converted at all; nothing of it stays.
            CancelledError: The observer asked to stop.
        """
        target = self.folder / DATASETS / f"{archive.sha256}{DATASET_SUFFIX}"
        self.hold(
            target,
            lambda folder: build_raw(self.store.path(archive), folder, self.limits, observer),
            observer,
        )
        return dataset_root(target)

    def preprocessed(self, recipe: str, digest: str) -> Path:
        """Return where preprocessed cases belong, there or not.

        Args:
            recipe: Digest of all that a plan says of preprocessing.
            digest: Of that and the dataset.
        """
        return self.folder / PREPROCESSED / f"{recipe[:RECIPE_DIGITS]}-{digest}"

    def other_preprocessed(self, recipe: str, digest: str, observer: Observer) -> tuple[Path, ...]:
        """Return the folders on this machine that may hold the same cases: of the same recipe, the newest first."""
        folder = self.preprocessed(recipe, digest)
        others = [
            path
            for path in folder.parent.glob(f"{recipe[:RECIPE_DIGITS]}-*")
            if path.is_dir() and path != folder and path.suffix != PARTIAL_SUFFIX
        ]
        for path in others:
            self.holds.enter_context(locked(lock_of(path), observer, shared=True))
        there = [path for path in others if path.is_dir()]
        return tuple(sorted(there, key=lambda path: path.stat().st_mtime, reverse=True))

    def fetch_preprocessed(self, result: PreprocessResult, recipe: str, observer: Observer) -> Path:
        """Return the folder of preprocessed cases, fetched now if this machine does not have it.

        Raises:
            StoreError: An object is missing or its bytes are not those that were stored.
            CancelledError: The observer asked to stop.
        """
        target = self.preprocessed(recipe, result.digest)
        files = {
            f"{case_id}{CASE_SUFFIX}": result.files[case_object(number)]
            for number, case_id in enumerate(result.cases)
        }
        self.hold(target, lambda folder: self._fetch(files, folder, observer), observer)
        return target

    def hold(
        self, target: Path, build: Callable[[Path], object], observer: Observer, *, goes_on: bool = False
    ) -> None:
        """Make a shared folder unless it is there, and keep it from being removed; see `worker.shared.held`."""
        self.holds.enter_context(held(target, build, observer, goes_on=goes_on))

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

    def fetch_file(self, ref: ObjectRef, target: Path, observer: Observer) -> None:
        """Bring one file from the store; its folder must exist.

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
        target = self.folder / MODELS / hashlib.sha256(content.encode()).hexdigest()
        self.hold(target, lambda folder: self._fetch(files, folder, observer), observer)
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

    def outboxes(self, untouched_for_seconds: float) -> dict[Path, UUID]:
        """Return the outboxes that were not touched for a while, with the jobs whose files are in them."""
        latest = time.time() - untouched_for_seconds
        folders = (self.folder / "outbox").glob("*-*-*-*-*-*")
        return {
            folder: UUID(folder.name.rpartition("-")[0])
            for folder in folders
            if folder.stat().st_mtime <= latest
        }

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


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file in a second place without a second copy where the disk allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def is_of_this_release(folder: Path) -> bool:
    """Whether a shared folder is named as this release names it, so that a job may look for it."""
    name, kind = folder.name, folder.parent.name
    if kind == DATASETS:
        return name.endswith(DATASET_SUFFIX)
    return kind != PREPROCESSED or "-" in name


def case_object(number: int) -> str:
    """Name the file of a preprocessed case in the store, by the case's place in the result."""
    return f"{number}{CASE_SUFFIX}"


def is_readable(result: PreprocessResult) -> bool:
    """Return whether preprocessed cases are stored as this release reads them; the one before used folders."""
    return set(result.files) == {case_object(number) for number in range(len(result.cases))}
