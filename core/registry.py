"""Names in a plan → implementations: explicit registration, ours or a package's; never a search through folders."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from core import extensions
from core.errors import UnknownNameError
from core.extensions import Group

T = TypeVar("T")


class Registry(Generic[T]):
    """A named table of interchangeable implementations.

    Those that a package adds are listed from its metadata, and loaded when they are first asked for.

    Args:
        noun: What one entry is, in the singular, for error sentences ("normalization").
        group: Where packages add entries; None: nowhere.
        kind: What an entry of a package must be an instance of; None: it must be something that can be called.
    """

    def __init__(self, noun: str, group: Group | None = None, kind: type | None = None) -> None:
        self._noun, self._group, self._kind = noun, group, kind
        self._entries: dict[str, T] = {}
        self._loaded: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that adds its argument under each of the names.

        Raises:
            ValueError: A name is taken; that is a programming mistake, not a user's.
        """

        def add(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    raise ValueError(f"{self._noun} {name!r} is registered twice")
                self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Look one entry up.

        Raises:
            UnknownNameError: No entry has this name; the sentence lists those there are.
            ExtensionError: A package adds it, and it cannot be loaded; or two do.
        """
        if name in self._loaded:
            return self._loaded[name]
        added = None if self._group is None else extensions.find(self._group, name, self._entries)
        if added is not None:
            return self._loaded.setdefault(name, cast("T", extensions.load(added, self._noun, self._kind)))
        if name in self._entries:
            return self._entries[name]
        known = ", ".join(sorted(self))
        raise UnknownNameError(f"there is no {self._noun} named {name!r}; choose one of: {known}", name=name)

    def own(self) -> tuple[str, ...]:
        """Return the names that are registered here, in their order, without those that packages add."""
        return tuple(self._entries)

    def added(self) -> tuple[str, ...]:
        """Return the names that packages add; none of them is imported.

        Raises:
            ExtensionError: A name is given twice.
        """
        return () if self._group is None else extensions.names(self._group, self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._entries, *self.added()))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.added()
