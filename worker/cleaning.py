"""What a machine's scratch folder keeps for jobs to come: up to a budget of bytes, the longest unused goes first."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.shared import LOCK_SUFFIX, PARTIAL_SUFFIX, REMOVED_SUFFIX, last_used, remove_unused
from worker.workspace import DATASETS, MODELS, PREPROCESSED, is_of_this_release

log = logging.getLogger(__name__)

STALE_SECONDS = 24 * 3600.0
"""What was interrupted so long ago, or another release left, nobody takes up again."""

UNUSED_SECONDS = 3600.0
"""What was used since is kept whatever the budget: the next fold of the same training wants it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder that jobs may want again."""

    folder: Path
    last_used: float
    size_bytes: float


def clean_scratch(scratch: Path, budget_bytes: float) -> None:
    """Remove what nobody will take up again, then what is over the budget; never what a process uses.

    Args:
        scratch: The folder of a `Workspace`.
        budget_bytes: What datasets, preprocessed cases and models may take together. It may be exceeded by what
            is in use or was just now.
    """
    for kind in (DATASETS, PREPROCESSED, MODELS):
        _remove_useless(scratch / kind)
    kept = [one for kind in (DATASETS, PREPROCESSED, MODELS) for one in _kept_in(scratch / kind)]
    total = sum(one.size_bytes for one in kept)
    latest = time.time() - UNUSED_SECONDS
    for one in sorted(kept, key=lambda one: one.last_used):
        if total <= budget_bytes or one.last_used > latest:
            return
        if remove_unused(one.folder):
            total -= one.size_bytes
            log.info(
                "removed from the scratch folder, which is over its budget",
                extra={"folder": one.folder.name, "bytes": int(one.size_bytes)},
            )


def _remove_useless(parent: Path) -> None:
    """Remove what killed processes and other releases left."""
    latest = time.time() - STALE_SECONDS
    for entry in _entries(parent):
        if entry.name.endswith(REMOVED_SUFFIX):
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name.endswith(LOCK_SUFFIX):
            target = entry.with_name(entry.name.removesuffix(LOCK_SUFFIX))
            if not target.exists() and last_used(target) <= latest:
                remove_unused(target)  # Of a build that failed: only its lock is left.
        elif entry.is_dir() and not _may_be_taken_up(entry, latest):
            remove_unused(entry)


def _may_be_taken_up(entry: Path, latest: float) -> bool:
    """Whether a job may want a folder that nobody uses just now.

    A killed build begins anew, but for that of preprocessed cases, which goes on.
    """
    is_partial = entry.name.endswith(PARTIAL_SUFFIX)
    if is_partial and entry.parent.name != PREPROCESSED:
        return False
    if is_partial or not is_of_this_release(entry):
        return last_used(entry) > latest
    return True


def _kept_in(parent: Path) -> Iterator[Kept]:
    for entry in _entries(parent):
        if entry.is_dir() and not entry.name.endswith(REMOVED_SUFFIX):
            yield Kept(entry, last_used(entry), _size_bytes(entry))


def _entries(parent: Path) -> list[Path]:
    return sorted(parent.iterdir()) if parent.is_dir() else []


def _size_bytes(folder: Path) -> float:
    """Add up the files of a folder; one that lies in several places counts in parts."""
    total = 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                status = Path(parent, name).lstat()
                total += status.st_size / status.st_nlink
    return total
