"""The first verbs: convert, verify, fingerprint, preprocess."""

from collections.abc import Sequence
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING

from core.domain.conversion import OLDER_LAYOUTS, Conversion, Manner
from core.domain.dataset import CaseId
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import permuted
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer
from core.domain.record import require_writable, write_json
from core.errors import DatasetError, ImageError, PlanError
from core.io.case_store import CaseStore
from core.io.cases import CaseFiles, find_cases, read_description
from core.io.readers import read_header

if TYPE_CHECKING:
    from core.preprocessing.dataset import Outcome
    from core.verification.verify import Verification


def is_older(folder: Path) -> bool:
    """Return whether a dataset folder has the layout of nnU-Net v1 or of the Medical Segmentation Decathlon.

    Raises:
        DatasetError: It has, but images or labels are missing, or images are named partly in one way and
            partly in another.
    """
    from core.conversion.layouts import tell_layout

    return tell_layout(folder) in OLDER_LAYOUTS


def convert(source: Path, target: Path, observer: Observer, manner: Manner | None = None) -> Conversion:
    """Write a dataset of an older layout in the layout of nnU-Net v2.

    Args:
        source: Its folder.
        target: The new folder; it appears when all is done.
        observer: Told of every case.
        manner: How to convert.

    Returns:
        What was done; where there are problems, nothing, unless the manner says otherwise.

    Raises:
        DatasetError: The source is of no older layout, or the target is in use.
        CancelledError: The observer asked to stop.
        OSError: A file cannot be read or written.
    """
    from core.conversion.convert import convert_dataset

    return convert_dataset(source, target, observer, manner)


def verify(raw: Path, observer: Observer, *, outside: bool = False) -> "Verification":
    """Check a dataset folder: every problem of every case at once.

    Args:
        raw: The folder.
        observer: Told of every case.
        outside: Here as in the other verbs, whether dataset.json may list files outside the folder. Never say
            so of a folder that came from elsewhere.
    """
    from core.verification.verify import verify_dataset

    return verify_dataset(raw, observer, outside=outside)


def fingerprint(
    raw: Path, out: Path, observer: Observer, *, workers: int | None = None, outside: bool = False
) -> Fingerprint:
    """Measure a dataset and write dataset_fingerprint.json.

    Raises:
        DatasetError: The folder is no dataset.
        ImageError: A file cannot be read.
        CancelledError: The observer asked to stop.
        OSError: The result cannot be written, which is seen before anything is measured.
    """
    from core.crew import Crew
    from core.fingerprinting import fingerprint_dataset
    from core.preprocessing.budget import SHARE_OF_AVAILABLE, available_bytes

    require_writable(out)
    crew = Crew(workers or default_workers(), int(available_bytes() * SHARE_OF_AVAILABLE))
    measured = fingerprint_dataset(raw, observer, crew, outside=outside)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, measured.to_json(), sort_keys=True)
    return measured


def preprocess(
    raw: Path,
    made: Plan,
    configuration: ConfigurationName,
    out: Path,
    observer: Observer,
    *,
    workers: int | None = None,
    memory_gb: float | None = None,
    other_stores: Sequence[Path] = (),
    outside: bool = False,
) -> "Outcome":
    """Preprocess every training case for one configuration, but for those that are there already.

    Args:
        raw: The dataset folder.
        made: The plan.
        configuration: Which of the plan.
        out: Folder of preprocessed cases; what is in it of an earlier run is kept as far as it is still right.
        observer: Told of every case, and asked after each whether to stop.
        workers: Cases worked on at the same time; by default one per core.
        memory_gb: What they may take together; by default half of what is available.
        other_stores: Folders of preprocessed cases that may hold the same ones.
        outside: See `verify`.

    Returns:
        How many cases were made, and how many there were.

    Raises:
        PlanError: The plan has no such configuration, contradicts itself, or is for volumes where there is none.
        UnknownNameError: The plan names a normalization or resampling that does not exist.
        DatasetError: Cases cannot be preprocessed; all are named. Or the folder cannot be written.
        ImageError: The one case that fails cannot be read, or does not fit the plan.
        CancelledError: The observer asked to stop.
    """
    from core.preprocessing.budget import SHARE_OF_AVAILABLE, available_bytes
    from core.preprocessing.dataset import Means, Recipe, preprocess_dataset

    description = read_description(raw)
    recipe = Recipe(made, made.configuration(configuration), description.label_set())
    planned, named = len(recipe.configuration.normalization_schemes), len(description.channels)
    if planned != named:
        raise PlanError(
            f"the plan normalizes {planned} channel{'s' * (planned != 1)}, but dataset.json names {named}: "
            f"{', '.join(description.channels)}; use the plan of this dataset"
        )
    cases = find_cases(raw, description, outside=outside)
    if not cases:
        raise DatasetError("the dataset has no training case; add images to imagesTr")
    _require_volumes(cases, made, configuration)
    memory = available_bytes() * SHARE_OF_AVAILABLE if memory_gb is None else memory_gb * 2**30
    means = Means(workers or default_workers(), int(memory), tuple(other_stores))
    return preprocess_dataset(cases, recipe, CaseStore(out), means, observer)


def _require_volumes(cases: Sequence[CaseFiles], made: Plan, configuration: ConfigurationName) -> None:
    """Refuse to make volumes of images that all have a single slice; a volume may have few.

    Raises:
        PlanError: The configuration is for volumes, and there is none.

    Source:
        Engine specification A 5.5.
    """
    if made.configuration(configuration).is_2d or not all(_is_flat(case, made) for case in cases):
        return
    flat = [name for name in made.configurations if made.configuration(name).is_2d]
    cure = f"choose {' or '.join(flat)}" if flat else "plan again, for 2d"
    raise PlanError(
        f"configuration {configuration} is for volumes, but every image of the dataset has a single slice, "
        f"{cases[0].case_id} for one; {cure}",
        configuration=configuration,
    )


def _is_flat(case: CaseFiles, made: Plan) -> bool:
    """Return whether a case certainly has a single slice; one that cannot be read is reported later."""
    try:
        header = read_header(case.images[0], made.image_reader_writer)
    except ImageError:
        return False
    return header.geometry.is_2d or permuted(header.shape, made.transpose_forward)[0] == 1


def preprocessing_digest(made: Plan, configuration: ConfigurationName) -> str:
    """Hash all that a plan says of preprocessing; two configurations that agree in it share their arrays.

    Raises:
        PlanError: The plan has no such configuration.
    """
    from core.preprocessing.recipe import recipe_digest

    return recipe_digest(made, made.configuration(configuration))


def preprocessed_cases(folder: Path) -> dict[CaseId, Path]:
    """Return the files of a folder of preprocessed cases."""
    store = CaseStore(folder)
    return {case_id: store.file(case_id) for case_id in store.case_ids}


def default_workers() -> int:
    """Return how many threads read and compute side by side."""
    return cpu_count() or 1
