"""Names in a plan → implementations: explicit registration, never a search through folders."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A named table of interchangeable implementations.

    Args:
        noun: What one entry is, in the singular, for error sentences ("normalization").
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._entries: dict[str, T] = {}

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
        """
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries))
            raise UnknownNameError(
                f"there is no {self._noun} named {name!r}; choose one of: {known}", name=name
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
