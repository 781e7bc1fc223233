"""All cases of a dataset → a store: what did not change is kept, what another store has is taken, the rest is made."""

from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from core.crew import Crew, LostWorkerError, worked_on
from core.domain.dataset import CaseId
from core.domain.geometry import permuted, voxel_count
from core.domain.labels import LabelSet
from core.domain.plan import Configuration, Plan
from core.domain.progress import Observer, Progress
from core.errors import CancelledError, DatasetError, DomainError, ImageError
from core.io.case_store import CaseStore, is_whole
from core.io.cases import CaseFiles
from core.io.readers import read_header, read_image, read_labels
from core.preprocessing.normalize import NORMALIZATIONS
from core.preprocessing.pipeline import preprocess_case
from core.preprocessing.recipe import case_digest, recipe_digest
from core.preprocessing.resample import RESAMPLINGS, Grid
from core.preprocessing.target import target_grid

STAGE: Final = "preprocess"

BASE_BYTES: Final = 32 * 2**20
"""What a case takes however small it is: code, operators, buffers."""

MOST_EXPANSION: Final = 1032
"""No deflate stream becomes longer by more than this factor; zlib.net/zlib_tech.html."""

SMALL_FILE_BYTES: Final = 26
"""Per voxel, for a small file."""

FLOAT_BYTES: Final = 4
LABEL_BYTES: Final = 3
"""Of a label as it is read, and as it is marked."""
MASK_BYTES: Final = 11
"""Of a mask and its components, per voxel."""
INDEX_BYTES: Final = 4
"""Of a voxel's place in the order that class locations are drawn from."""

Fate = Literal["made", "kept", "taken"]
"""What became of a case: preprocessed now, found in the store, found in another one."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How cases are preprocessed."""

    plan: Plan
    configuration: Configuration
    labels: LabelSet


@dataclass(frozen=True, slots=True)
class Means:
    """What preprocessing may use."""

    workers: int
    """Cases worked on at the same time, if there is memory for them."""
    memory_bytes: int
    other_stores: tuple[Path, ...] = ()
    """Where equal cases may be: of other versions of the dataset, or for other configurations."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the cases of a dataset."""

    made: int
    """Preprocessed now."""
    kept: int
    """Left as they were: neither their files nor what is done with them changed."""
    taken: int
    """Found in another store."""
    removed: int
    """Taken out of the store: the dataset does not have them any more."""
    unlabelled: tuple[CaseId, ...] = ()
    """Without a label file: nothing can be trained or validated with them."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What every case needs."""

    recipe: Recipe
    digest: str
    """Of the recipe."""
    store: CaseStore
    made_elsewhere: Mapping[str, Path]
    """Files of other stores by the digest of their case."""


def preprocess_dataset(
    cases: Sequence[CaseFiles], recipe: Recipe, store: CaseStore, means: Means, observer: Observer
) -> Outcome:
    """Bring a store to the state that the dataset and the plan ask for.

    A case that fails keeps no other from being done.

    Args:
        cases: All of the dataset.
        recipe: How they are preprocessed.
        store: Gets them; cases that the dataset does not have any more are removed from it.
        means: Workers, memory and other stores.
        observer: Told of every case, and asked now and then whether to stop.

    Raises:
        PlanError: The plan contradicts itself, whatever the case.
        UnknownNameError: The plan names a normalization or resampling that does not exist.
        DatasetError: Cases cannot be preprocessed, each named with its reason; or the store cannot be written.
        DomainError: As above, of the reason's own kind, where it is one case only.
        CancelledError: The observer asked to stop; cases that were finished stay.
    """
    _require_known_names(recipe.configuration)
    digest = recipe_digest(recipe.plan, recipe.configuration, recipe.labels)
    work = _Work(recipe, digest, store, _by_digest(means.other_stores))
    progress = _Count(len(cases), observer)
    fates: Counter[Fate] = Counter()
    failures: dict[CaseId, DomainError] = {}
    try:
        with closing(_settled(cases, work, means)) as results:
            for case, fate in results:
                if isinstance(fate, DomainError):
                    failures[case.case_id] = fate
                    store.discard(case.case_id)  # What was made of it before is not of what it is now.
                else:
                    fates[fate] += 1
                progress.add_one()
    except OSError as error:
        raise DatasetError(
            f"preprocessed cases cannot be written to {store.folder}: {error.strerror or error}; make room, or "
            "name another folder"
        ) from error
    removed = _remove_others(store, {case.case_id for case in cases})
    if failures:
        raise _failure(failures, len(cases))
    unlabelled = tuple(sorted(case.case_id for case in cases if case.label is None))
    return Outcome(fates["made"], fates["kept"], fates["taken"], removed, unlabelled)


class _Count:
    """Counts cases aloud, and passes on the wish to stop."""

    def __init__(self, total: int, observer: Observer) -> None:
        self._done, self._total, self._observer = 0, total, observer

    def add_one(self) -> None:
        """One more case is done with.

        Raises:
            CancelledError: The observer asks to stop, and there are more cases.
        """
        self._done += 1
        self._observer.report(Progress(stage=STAGE, done=self._done, total=self._total))
        if self._done < self._total and self._observer.stop_requested():
            raise CancelledError(f"{STAGE} stopped after {self._done} of {self._total} cases")


def needed_bytes(case: CaseFiles, recipe: Recipe) -> int:
    """Estimate from its header how much memory a case takes at most: the arrays that exist at the same time.

    Source:
        Own measurement on images of 80 x 400 x 400 to 400 x 512 x 512 voxels with one and four channels, on the
        same, a coarser and a finer grid: what was taken is 51 to 81 % of the estimate.

    Raises:
        ImageError: The header cannot be read, or the image does not fit the plan's spacing.
    """
    header = read_header(case.images[0], recipe.plan.image_reader_writer)
    channels = max(header.channels, len(case.images))
    spacing = permuted(header.geometry.spacing, recipe.plan.transpose_forward)
    shape = permuted(header.shape, recipe.plan.transpose_forward)
    whole = Grid(shape, spacing)
    target = target_grid(whole, whole, recipe.configuration, channels)
    before, after = voxel_count(shape), voxel_count(target.shape)
    image, result = FLOAT_BYTES * channels * before, FLOAT_BYTES * channels * after
    largest = FLOAT_BYTES * max(before, after)
    reading = image * (2 if len(case.images) > 1 else 1) + header.stored_type.itemsize * before
    cropping = image + (LABEL_BYTES + MASK_BYTES) * before
    resampling = image + result + 2 * largest + LABEL_BYTES * before
    placing = result + LABEL_BYTES * (before + after) + INDEX_BYTES * after
    return BASE_BYTES + max(reading, cropping, resampling, placing)


def _require_known_names(configuration: Configuration) -> None:
    """Refuse what no case could be preprocessed by.

    Raises:
        UnknownNameError: A name stands for nothing.
    """
    for scheme in configuration.normalization_schemes:
        NORMALIZATIONS.get(scheme)
    for function in (configuration.resampling_fn_data, configuration.resampling_fn_seg):
        RESAMPLINGS.get(function)


def _by_digest(folders: Sequence[Path]) -> dict[str, Path]:
    """List the files of some stores by the digest of what they hold."""
    found: dict[str, Path] = {}
    for store in map(CaseStore, folders):
        for case_id in store.case_ids:
            digest = store.digest(case_id)
            if digest:
                found[digest] = store.file(case_id)
    return found


def _settled(
    cases: Sequence[CaseFiles], work: _Work, means: Means
) -> Generator[tuple[CaseFiles, Fate | DomainError], None, None]:
    """Keep, take or make every case, the largest files first."""
    ordered = sorted(cases, key=_file_bytes, reverse=True)
    crew = Crew(means.workers, means.memory_bytes)
    needs = partial(_needs, recipe=work.recipe, share=means.memory_bytes // means.workers)
    try:
        with closing(worked_on(partial(_settle, work=work), ordered, crew, needs)) as results:
            for finished in results:
                case = ordered[finished.index]
                yield case, finished.result or _reason(finished.error, case)
    except LostWorkerError as error:
        names = ", ".join(ordered[index].case_id for index in error.indices)
        raise DatasetError(
            f"a process was killed while it worked on {names}, probably because the machine ran out of memory; "
            "allow less memory or fewer workers, or close other programs"
        ) from error


def _file_bytes(case: CaseFiles) -> int:
    """Return how large the files of a case are, as far as they exist."""
    return sum(path.stat().st_size for path in case.images if path.is_file())


def _needs(case: CaseFiles, recipe: Recipe, share: int) -> int:
    """Estimate what a case takes; for a small file without a look at it.

    Compressed files hold at most so many voxels per byte, real images less than a tenth of that, which leaves
    room for a grid ten times finer.
    """
    at_most = BASE_BYTES + _file_bytes(case) * MOST_EXPANSION * SMALL_FILE_BYTES
    return at_most if at_most <= share else needed_bytes(case, recipe)


def _settle(case: CaseFiles, work: _Work) -> Fate:
    """Keep a case, take it from elsewhere or make it."""
    digest = _digest(case, work.digest)
    if work.store.digest(case.case_id) == digest and is_whole(work.store.file(case.case_id)):
        return "kept"
    elsewhere = work.made_elsewhere.get(digest)
    if elsewhere is not None and is_whole(elsewhere):
        work.store.adopt(case.case_id, elsewhere)
        return "taken"
    recipe, reader = work.recipe, work.recipe.plan.image_reader_writer
    made = preprocess_case(
        read_image(case.images, reader),
        None if case.label is None else read_labels(case.label, reader).labels_zyx,
        recipe.plan,
        recipe.configuration,
        recipe.labels,
    )
    work.store.save(case.case_id, made, digest)
    return "made"


def _digest(case: CaseFiles, recipe: str) -> str:
    """Hash the files of a case.

    Raises:
        ImageError: One cannot be read.
    """
    try:
        return case_digest(recipe, case.images, case.label)
    except OSError as error:
        name = Path(str(error.filename)).name
        raise ImageError(
            f"{name} cannot be opened ({error.strerror}); check that it is there and its permissions",
            file=name,
        ) from error


def _reason(error: Exception | None, case: CaseFiles) -> DomainError:
    """Return why a case failed.

    Raises:
        PlanError: The plan is at fault, not the case.
        OSError: The store cannot be written.
    """
    if isinstance(error, MemoryError):
        return ImageError(
            f"{case.case_id} does not fit into the memory of this machine; crop it, resample it to a coarser grid, "
            "or use a larger machine",
            case=case.case_id,
        )
    if isinstance(error, ImageError | DatasetError):
        return error
    raise error or AssertionError("work that raises nothing returns something")


def _failure(failures: Mapping[CaseId, DomainError], total: int) -> DomainError:
    """Put the reasons of all cases that failed into one error; a reason that many share stands there once."""
    if len(failures) == 1:
        ((case_id, error),) = failures.items()
        return type(error)(f"case {case_id}: {error.message}", **{**error.context, "case": case_id})
    alike: dict[str, list[CaseId]] = defaultdict(list)
    for case_id, error in sorted(failures.items()):
        alike[error.message.replace(case_id, "")].append(case_id)
    sentences = [
        f"case {first}: {failures[first].message}" + (f" (likewise {', '.join(rest)})" if rest else "")
        for first, *rest in alike.values()
    ]
    return DatasetError(
        f"{len(failures)} of {total} cases cannot be preprocessed: {'; '.join(sentences)}",
        problems=[{"case": case_id, "message": error.message} for case_id, error in sorted(failures.items())],
    )


def _remove_others(store: CaseStore, case_ids: set[CaseId]) -> int:
    """Remove the cases that a store should not have; files that are no preprocessed cases stay."""
    others = [one for one in store.case_ids if one not in case_ids and store.digest(one) is not None]
    for case_id in others:
        store.discard(case_id)
    return len(others)
