"""What lies in a folder of images or labels: files by case and channel, and everything that is misnamed."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from core.domain.dataset import CaseId, DatasetProblem, invalid_dataset
from core.domain.problems import counted, problem, some
from core.io.readers import known_endings

FOREIGN_ENDINGS: Final[Mapping[str, str]] = {
    ".dcm": "DICOM",
    ".ima": "DICOM",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "JPEG",
    ".hdr": "two-part",
    ".img": "two-part",
    ".mhd": "two-part",
    ".nhdr": "two-part",
    ".raw": "two-part",
    ".gipl": "other",
    ".mgz": "other",
    ".mnc": "other",
    ".npy": "other",
    ".npz": "other",
    ".mat": "other",
    ".h5": "other",
}
"""Images that people put here although nothing here can read them, by family."""

FOREIGN_CURES: Final[Mapping[str, str]] = {
    "DICOM": "convert each series to one volume, for example with dcm2niix, and name it CASE_0000",
    "JPEG": "their compression changes intensities: export the originals as PNG or TIFF",
    "two-part": "save header and voxels in one file, such as .nii.gz, .mha or .nrrd",
    "other": "convert them to .nii.gz, .mha, .nrrd, .tif or .png",
}

LEFT_BEHIND: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Of desktop systems, beside what begins with a dot."""

DICOM_MAGIC: Final = (128, b"DICM")
"""Where and how a DICOM file says that it is one; DICOM part 10."""

LOOKED_AT: Final = 1000
"""Entries of a sub-folder that are looked at to tell whether it holds images."""

CHANNEL_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Scan:
    """The files of a folder."""

    files: Mapping[CaseId, Mapping[int, Path]]
    """By case and channel; label files count as channel 0."""
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...]


def scan_images(folder: Path, ending: str) -> Scan:
    """Group the image files of a folder by case and channel number."""
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{{CHANNEL_DIGITS}}}){re.escape(ending)}", re.ASCII)
    entries = _Entries.of(folder, ending)
    files: dict[CaseId, dict[int, Path]] = defaultdict(dict)
    problems = list(entries.problems)
    for path in entries.named:
        match = pattern.fullmatch(path.name)
        if match:
            files[match["case"]][int(match["channel"])] = path
        else:
            problems.append(_misnamed(path, ending))
    return Scan(dict(files), tuple(problems), entries.notes)


def scan_labels(folder: Path, ending: str) -> Scan:
    """Return the label files of a folder by case."""
    entries = _Entries.of(folder, ending)
    files = {path.name.removesuffix(ending): {0: path} for path in entries.named}
    return Scan(files, entries.problems, entries.notes)


def endings_in(folder: Path) -> Counter[str]:
    """Count the files of a folder by the endings that can be read, as they are written."""
    try:
        names = [path.name for path in folder.iterdir() if not _is_hidden(path)]
    except OSError:  # It is missing or closed, which listing its cases tells.
        return Counter()
    return Counter(name[-len(ending) :] for name in names if (ending := _known_ending(name)))


def looks_the_same(name: str) -> str:
    """Return a text that is equal for names that differ in upper and lower case or in coding of letters only."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True, slots=True)
class _Entries:
    """What lies in a folder, sorted by what it is."""

    named: tuple[Path, ...]
    """Regular files with the ending of the dataset."""
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...]

    @classmethod
    def of(cls, folder: Path, ending: str) -> "_Entries":
        """Sort the entries of a folder."""
        try:
            return cls._sorted(folder, ending)
        except OSError as error:
            message = f"{folder.name} cannot be listed ({error.strerror}); check its permissions"
            return cls((), (invalid_dataset(message),), ())

    @classmethod
    def _sorted(cls, folder: Path, ending: str) -> "_Entries":
        """Sort the entries of a folder that can be listed."""
        named: list[Path] = []
        problems: list[DatasetProblem] = []
        foreign: dict[str, list[str]] = defaultdict(list)
        stray: list[str] = []
        for path in sorted(path for path in folder.iterdir() if not _is_hidden(path)):
            if _is_unprintable(path.name):
                problems.append(_unprintable(path))
            elif not path.is_file():
                wrong = _not_a_file(path)
                problems += [wrong] if wrong else []
                stray += [] if wrong else [f"{path.name}/"]
            elif path.name.endswith(ending):
                named.append(path)
            elif _known_ending(path.name):
                problems.append(_other_ending(path, ending))
            elif family := _foreign_family(path):
                foreign[family].append(path.name)
            elif path.suffix.lower() != ".json":  # Side-cars of TIFF files, and BIDS.
                stray.append(path.name)
        problems += _foreign_problems(folder, foreign)
        return cls(tuple(named), tuple(problems), tuple(_stray_note(folder, stray)))


def _is_hidden(path: Path) -> bool:
    """Return whether systems hide a file or leave it behind."""
    return path.name.startswith(".") or path.name.lower() in LEFT_BEHIND


def _is_unprintable(name: str) -> bool:
    """Return whether a name holds control characters, or bytes that are no text."""
    return any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)


def _unprintable(path: Path) -> DatasetProblem:
    """Report a name that can be written nowhere."""
    name = path.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    shown = name if name.isprintable() else ascii(name)
    return problem(
        None,
        "file-name",
        f"{path.parent.name} holds a file whose name is no plain text: {shown}; rename it with letters and digits",
    )


def _not_a_file(path: Path) -> DatasetProblem | None:
    """Report a folder or broken link that is in the way of files; other folders are left out."""
    place = f"{path.parent.name}/{path.name}"
    if path.is_symlink() and not path.exists():
        return problem(
            None,
            "not-a-file",
            f"{place} is a link to a file that does not exist; mend the link, or copy the file here",
        )
    if not path.is_dir():
        return problem(None, "not-a-file", f"{place} is no regular file; copy the image itself here")
    if _known_ending(path.name):
        return problem(
            None,
            "not-a-file",
            f"{place} is a folder, though named like an image; move the image out of it, or rename the folder",
        )
    families = {
        "image" if _known_ending(inner.name) else _foreign_family(inner)
        for inner in islice(path.rglob("*"), LOOKED_AT)
        if inner.is_file() and not _is_hidden(inner)
    } - {None}
    if not families:
        return None
    if families == {"DICOM"}:
        return problem(
            None,
            "not-a-file",
            f"{place} is a folder of DICOM files; {FOREIGN_CURES['DICOM']} in {path.parent.name}",
        )
    return problem(
        None,
        "not-a-file",
        f"{place} is a folder with images, which are not looked for there; move them up into {path.parent.name}, or "
        "the folder out of it",
    )


def _known_ending(name: str) -> str | None:
    """Return the ending, in lower case, by which a file could be read."""
    return next((ending for ending in known_endings() if name.lower().endswith(ending)), None)


def _foreign_family(path: Path) -> str | None:
    """Tell what kind of image a file is that nothing here can read."""
    family = FOREIGN_ENDINGS.get(path.suffix.lower())
    if family is None and path.suffix.lower() != ".json":
        offset, magic = DICOM_MAGIC
        try:
            with path.open("rb") as file:
                return "DICOM" if file.read(offset + len(magic))[offset:] == magic else None
        except OSError:
            return None
    return family


def _misnamed(path: Path, ending: str) -> DatasetProblem:
    """Report an image whose name does not tell its channel."""
    stem = path.name.removesuffix(ending)
    place = f"{path.parent.name}/{path.name}"
    numbered = re.fullmatch(r"(.*)_(\d+)", stem, re.ASCII)
    if numbered and not numbered[1]:
        return problem(
            None, "file-name", f"{place} has no case identifier; rename it to CASE{stem[-5:]}{ending}"
        )
    cure = f"rename it to {stem}_0000{ending}"
    if numbered and len(numbered[2].lstrip("0")) <= CHANNEL_DIGITS:
        right = f"{numbered[1]}_{int(numbered[2]):04d}{ending}"
        cure += f", or to {right} if {numbered[2]} is its channel"
    return problem(stem, "file-name", f"{place} has no channel number of four digits; {cure}")


def _other_ending(path: Path, ending: str) -> DatasetProblem:
    """Report an image whose ending is not that of the dataset."""
    known = _known_ending(path.name) or ""
    stem = path.name[: -len(known)]
    only_case = path.name.lower().endswith(ending.lower())
    cure = f"rename it to {stem}{ending}" if only_case else "convert and rename it"
    return problem(
        re.sub(rf"_\d{{{CHANNEL_DIGITS}}}$", "", stem) or None,
        "file-ending",
        f"{path.parent.name}/{path.name} does not end in {ending}, as dataset.json says; {cure}, or correct "
        "file_ending",
    )


def _foreign_problems(folder: Path, foreign: Mapping[str, Sequence[str]]) -> Iterator[DatasetProblem]:
    """Report images that nothing here can read, each family once."""
    for family, names in sorted(foreign.items()):
        kind = "" if family == "other" else f" ({family})"
        yield problem(
            None,
            "file-ending",
            f"{folder.name} holds {counted(len(names), 'file')} that cannot be read{kind}: {some(names)}; "
            f"{FOREIGN_CURES[family]}",
        )


def _stray_note(folder: Path, names: Sequence[str]) -> Iterator[DatasetProblem]:
    """Name what is left out."""
    if names:
        yield problem(
            None,
            "stray-file",
            f"{folder.name} holds what is no image and is left out: {some(names)}; remove it, or rename it if it is "
            "one after all",
        )
