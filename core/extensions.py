"""What other packages add under names of their own: listed from their metadata, loaded when first asked for."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import JsonValue

from core.errors import ExtensionError


class Group(StrEnum):
    """Groups of entry points; a package names one in its pyproject.toml for each kind of thing that it adds."""

    NORMALIZATION = "nnunet_service.normalizations"
    RESAMPLING = "nnunet_service.resamplings"
    ARCHITECTURE = "nnunet_service.architectures"
    LOSS = "nnunet_service.losses"
    AUGMENTATION = "nnunet_service.augmentations"
    PLANNER = "nnunet_service.planners"
    READER = "nnunet_service.readers"


@dataclass(frozen=True, slots=True)
class Extension:
    """One thing that a package adds."""

    entry: EntryPoint

    @property
    def package(self) -> str:
        """Name and version of the package, as pip knows them."""
        found = self.entry.dist
        return "an unknown package" if found is None else f"{found.name} {found.version}"


@cache
def _all_groups() -> Any:
    """Read the metadata of all packages once, because it takes 6 ms; what holds them has another type in Python 3.11."""
    return entry_points()


@cache
def _by_name(group: Group) -> dict[str, tuple[Extension, ...]]:
    """List what packages add to a group; a package that is installed meanwhile is seen by the next process."""
    listed: dict[str, tuple[Extension, ...]] = {}
    for entry in sorted(_all_groups().select(group=group), key=lambda entry: (entry.name, entry.value)):
        listed[entry.name] = (*listed.get(entry.name, ()), Extension(entry))
    return listed


def forget() -> None:
    """List anew when names are next asked for; for a process that has installed something itself."""
    _all_groups.cache_clear()
    _by_name.cache_clear()


def names(group: Group, own: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names that packages add to a group, in alphabetical order; no package is imported.

    Args:
        group: Of entry points.
        own: Names that are taken already.

    Raises:
        ExtensionError: A name is given twice; the sentence names the packages.
    """
    listed = _by_name(group)
    for name in listed:
        find(group, name, own)
    return tuple(listed)


def find(group: Group, name: str, own: Collection[str] = ()) -> Extension | None:
    """Return what a package adds under a name; None where none does. No package is imported.

    Args:
        group: Of entry points.
        name: Which one.
        own: Names that are taken already.

    Raises:
        ExtensionError: The name is given twice; the sentence names the packages.
    """
    found = _by_name(group).get(name, ())
    if not found:
        return None
    packages: list[JsonValue] = [extension.package for extension in found]
    if name in own:
        packages.append("nnunet-service itself")
    if len(packages) > 1:
        raise ExtensionError(
            f"the name {name!r} in {group} is given twice, by {' and by '.join(map(str, packages))}; uninstall one of them, "
            "or let its author choose another name",
            name=name,
            packages=packages,
        )
    return found[0]


def load(found: Extension, noun: str, kind: type | None) -> object:
    """Import what a package adds.

    Args:
        found: From `find`.
        noun: What it is to be, in the singular, for error sentences.
        kind: What it must be an instance of; None: it must be something that can be called.

    Raises:
        ExtensionError: It cannot be imported, or is something else.
    """
    name, package, value = found.entry.name, found.package, found.entry.value
    try:
        loaded = found.entry.load()
    except Exception as error:  # Whatever the code of others raises while it is imported.
        raise ExtensionError(
            f"the {noun} {name!r} of {package} cannot be loaded from {value}: {type(error).__name__}: {error}; "
            "update that package, or uninstall it",
            name=name,
            packages=[package],
        ) from error
    if not (callable(loaded) if kind is None else isinstance(loaded, kind)):
        wanted = "something that can be called" if kind is None else f"a {kind.__name__}"
        raise ExtensionError(
            f"the {noun} {name!r} of {package} must be {wanted}, but {value} is a {type(loaded).__name__}; update "
            "that package, or uninstall it",
            name=name,
            packages=[package],
        )
    return loaded


def givers(group: Group, wanted: Iterable[str]) -> dict[str, str]:
    """Return which package, and in which version, gives each of the names; those of no package are left out.

    So that what was computed with one version of a package is not taken for the result of another.
    """
    listed = _by_name(group)
    return {name: listed[name][0].package for name in wanted if name in listed}
