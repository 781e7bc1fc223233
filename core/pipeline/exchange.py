"""Models in and out: import one from elsewhere, and export one for others; whole or not at all."""

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from core.domain.ensemble import ENSEMBLE_FILE
from core.domain.exchange import (
    INFORMATION_FILE,
    ORIGIN_FILE,
    ExportFormat,
    ImportOptions,
    ImportSummary,
)
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import BEST_WEIGHTS_FILE, FOLD_FILE, MODEL_FILE, WEIGHTS_FILE
from core.domain.postprocessing import POSTPROCESSING_FILE
from core.domain.pretraining import PRETRAINED_FILE
from core.domain.progress import Observer, QuietObserver
from core.domain.selection import SELECTION_FILE
from core.errors import ModelError
from core.io.archive import unpack
from core.pipeline.models import MODEL_LIMITS

if TYPE_CHECKING:
    from core.exchange.own_model import File

WANTED: Final = frozenset(
    {
        *("plans.json", "dataset.json", FINGERPRINT_FILE, INFORMATION_FILE),
        *(POSTPROCESSING_FILE, "postprocessing.pkl", SELECTION_FILE),
        *(MODEL_FILE, ENSEMBLE_FILE, FOLD_FILE, ORIGIN_FILE, PRETRAINED_FILE),
    }
)
"""Files that are unpacked, beside the weights that are chosen."""

FIRST_MOMENT: Final = (1980, 1, 1, 0, 0, 0)
"""Of zip's calendar; every file of an export has it, so that the same model makes the same bytes."""

CHUNK_BYTES: Final = 2**20


def import_model(source: Path, out: Path, options: ImportOptions, observer: Observer) -> ImportSummary:
    """Make a model folder of a model from elsewhere: an official zip or folder, or one of ours.

    Nothing that it names is imported or run. What it says of sizes is checked before memory is taken for it.

    Args:
        source: A zip or a folder.
        out: Gets the model; must not exist yet, or be empty. Of a refused model there is nothing in it.
        options: Which configuration, folds and checkpoint.
        observer: Told of what is unpacked and after each fold, and asked whether to stop.

    Raises:
        ArchiveError: The zip is damaged, hostile or too large.
        DomainError: The model cannot be used; the sentence names the file.
        CancelledError: The observer asked to stop.
        OSError: A file cannot be written.
    """
    from core.exchange.layout import choose, official_models, own_model
    from core.exchange.official_model import import_official
    from core.exchange.own_model import import_own

    _require_new(out)
    with TemporaryDirectory(prefix=".import-", dir=_nearest_folder(out)) as scratch:
        root, made = source, Path(scratch) / "model"
        if not source.is_dir():
            root = Path(scratch) / "unpacked" / (source.stem.strip(".") or "archive")
            root.mkdir(parents=True)
            weights = {f"checkpoint_{options.checkpoint}.pth"}
            weights |= {WEIGHTS_FILE if options.checkpoint == "final" else BEST_WEIGHTS_FILE}
            unpack(
                source,
                root,
                MODEL_LIMITS,
                QuietObserver(observer),
                lambda name: PurePosixPath(name).name in WANTED | weights,
            )
        own = own_model(root)
        if own is not None:
            summary = import_own(own, options, made, observer)
        else:
            found = official_models(root, options.checkpoint)
            summary = import_official(choose(found, options.configuration), options, made, observer)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rmdir()
        made.rename(out)
    return summary


def _require_new(out: Path) -> None:
    """Refuse to write a model where something is.

    Raises:
        ModelError: Something is there.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ModelError(f"{out} exists already; name a new folder for the model")


def _nearest_folder(path: Path) -> Path:
    """Return the folder that a path lies in, or will lie in once it is made."""
    folder = path.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return folder


def export_model(folder: Path, out: Path, target: ExportFormat, observer: Observer) -> tuple[str, ...]:
    """Write a zip of a model, a cascade or an ensemble.

    Args:
        folder: Of the model.
        out: Gets the zip, whole or not at all; the same bytes for the same model.
        target: For the official tools, laid out as their own export and loaded by their predictor; or for an import
            by this software, which keeps everything.
        observer: Told after each fold, and asked whether to stop.

    Returns:
        The names of the files in the zip.

    Raises:
        DomainError: The model cannot be used, or the official tools could not use it.
        CancelledError: The observer asked to stop.
        OSError: The zip cannot be written.
    """
    from core.exchange.export import official_files
    from core.exchange.own_model import own_files

    if not (folder / MODEL_FILE).is_file() and not (folder / ENSEMBLE_FILE).is_file():
        raise ModelError(f"{folder} holds no {MODEL_FILE}; give a model folder of this software")
    if out.is_dir():
        raise ModelError(f"{out} is a folder; name a file for the zip")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=out.absolute().parent) as scratch:
        packed, checkpoints = Path(scratch) / "model.zip", Path(scratch) / "checkpoints"
        checkpoints.mkdir()
        files = own_files(folder) if target == "ours" else official_files(folder, checkpoints, observer)
        names = _pack(packed, files)
        with packed.open("rb") as written:
            os.fsync(written.fileno())
        packed.replace(out)
    return names


def _pack(packed: Path, files: Iterable["File"]) -> tuple[str, ...]:
    """Write a zip; weights, which do not compress, are stored."""
    names = []
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files:
            member = zipfile.ZipInfo(name, FIRST_MOMENT)
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_STORED if isinstance(content, Path) else zipfile.ZIP_DEFLATED
            if isinstance(content, Path):
                member.file_size = content.stat().st_size
                with content.open("rb") as source, archive.open(member, "w") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
            else:
                archive.writestr(member, content)
            names.append(name)
    return tuple(names)
