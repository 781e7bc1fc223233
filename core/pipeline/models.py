"""What a user calls a model: a folder, one of several within it, or a zip; found, unpacked and loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.model import MODEL_FILE, WEIGHTS_FILE, ModelRecord, PredictionOptions
from core.domain.plan import ConfigurationName
from core.domain.postprocessing import POSTPROCESSING_FILE
from core.domain.progress import Observer
from core.errors import ModelError
from core.io.archive import ArchiveLimits, unpack

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel

MODEL_LIMITS: Final = ArchiveLimits(files=20_000, unpacked_bytes=2**37, ratio=200)
"""Of an archive: ten networks of 100 million weights with their optimizers, twice each, take a tenth; weights hardly
compress."""

NEEDED: Final = frozenset(
    {MODEL_FILE, ENSEMBLE_FILE, POSTPROCESSING_FILE, "plans.json", "dataset.json", WEIGHTS_FILE}
)
"""Of all files in a zip, those that are unpacked."""

OFFICIAL_CHECKPOINT: Final = "checkpoint_final.pth"


def load(
    folder: Path, options: PredictionOptions, *, previous_model: Path | None = None, alone: bool = False
) -> "TrainedModel":
    """Load a trained model or an ensemble of several, ready to predict.

    Args:
        folder: Of the model.
        options: How to predict.
        previous_model: Folder of the model of a cascade's stage before, if not the one that lies in the folder.
        alone: Whether to leave out the stage before, because its segmentations are given.

    Raises:
        ModelError: It is incomplete or does not fit.
    """
    from core.inference.ensemble import load_trained

    return load_trained(folder, options, previous_model=previous_model, alone=alone)


@contextmanager
def opened_model(
    path: Path, observer: Observer, configuration: ConfigurationName | None = None
) -> Iterator[Path]:
    """Find the folder of a model, or of an ensemble, in what a user names.

    Args:
        path: The folder itself, one that holds model folders, or a zip of either.
        observer: Told of what is unpacked.
        configuration: Which one, where there are several; of an ensemble, a member of it by itself.

    Yields:
        The folder; of a zip it lasts as long as the context.

    Raises:
        ModelError: There is no such model, or a choice to be made.
        ArchiveError: The zip is damaged, hostile or too large.
    """
    if path.is_dir():
        yield _chosen(path, configuration)
        return
    if not path.is_file():
        raise ModelError(f"there is no model at {path}; give a model folder, or a zip of one")
    with TemporaryDirectory(prefix="model-") as scratch:
        unpack(path, Path(scratch), MODEL_LIMITS, observer, _is_needed)
        yield _chosen(Path(scratch), configuration, path)


def _is_needed(name: str) -> bool:
    """Whether a file of a zip serves prediction, or shows that the zip is an official one."""
    return PurePosixPath(name).name in NEEDED


def _chosen(root: Path, configuration: ConfigurationName | None, named: Path | None = None) -> Path:
    """Choose a model folder within a folder.

    Args:
        root: Where to look: itself, and two levels below.
        configuration: Which one.
        named: What the user named, if something else.

    Raises:
        ModelError: There is none, or several.
    """
    shown = (named or root).name or str(root)
    found = _models(root)
    if not found:
        official = "" if next(root.glob(f"**/{OFFICIAL_CHECKPOINT}"), None) is None else " of ours"
        raise ModelError(
            f"{shown} holds no model{official}: no {MODEL_FILE} or {ENSEMBLE_FILE}; name another one, or make one of an "
            "official model with import-model"
        )
    if configuration is None:
        if len(found) == 1:
            return next(iter(found))
        names = ", ".join(sorted({name for known in found.values() for name in known}))
        raise ModelError(f"{shown} holds {len(found)} models; name the configuration of one: {names}")
    fitting = [folder for folder, known in found.items() if known == (configuration,)]
    if not fitting:  # A member of an ensemble, by itself.
        inside = [member for folder in found for member in _members(folder)]
        fitting = [member for member in inside if _configuration(member) == configuration]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(sorted({name for names in found.values() for name in names}))
    how_many = "no" if not fitting else str(len(fitting))
    raise ModelError(f"{shown} holds {how_many} models of configuration {configuration}; it has {known}")


def networks_of(folder: Path) -> dict[Path, ConfigurationName]:
    """Return the folders of a model's networks, its own or those of an ensemble's members, and what each is of.

    Raises:
        ModelError: A record cannot be used.
    """
    return {network: _configuration(network) for network in _members(folder) or [folder]}


def _models(root: Path) -> dict[Path, tuple[ConfigurationName, ...]]:
    """Return model folders with the configurations that each has; those within others are parts of them."""
    if (root / ENSEMBLE_FILE).is_file() or (root / MODEL_FILE).is_file():
        return {root: tuple(networks_of(root).values())}
    for level in ("*", "*/*"):
        found: dict[Path, tuple[ConfigurationName, ...]] = {}
        for folder in sorted(root.glob(level)):
            if (folder / MODEL_FILE).is_file() or (folder / ENSEMBLE_FILE).is_file():
                found |= _models(folder)
        if found:
            return found
    return {}


def _members(folder: Path) -> list[Path]:
    """Return the folders of an ensemble's members; none of a single model.

    Raises:
        ModelError: Its record cannot be used.
    """
    if not (folder / ENSEMBLE_FILE).is_file():
        return []
    record = EnsembleRecord.parse((folder / ENSEMBLE_FILE).read_bytes())
    return [folder / MEMBERS_FOLDER / name for name in record.members]


def _configuration(folder: Path) -> ConfigurationName:
    """Read which configuration a model folder holds.

    Raises:
        ModelError: It does not say.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelError(f"{folder.name} has no {MODEL_FILE}; train or import the model again")
    return ModelRecord.parse(path.read_bytes()).configuration
