"""A configuration that is being checked, of which some entries may be wrong already, and names that stand for nothing."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from core.domain.plan import Configuration, PlanMistake


class Checked(NamedTuple):
    """A configuration, of which some entries may be stand-ins that nothing is said about."""

    entries: Configuration
    standing_in: Collection[str] = ()
    """Dotted places of what was missing or of the wrong form."""

    def tells(self, *places: str) -> bool:
        """Whether all of these entries are the plan's own."""
        return not any(
            place == lost or place.startswith(f"{lost}.") for place in places for lost in self.standing_in
        )


def unknown(place: str, names: Iterable[str], known: Iterable[str], noun: str) -> Iterator[PlanMistake]:
    """Report names that stand for nothing."""
    for name in dict.fromkeys(names):
        if name not in known:
            yield PlanMistake(
                place, f"there is no {noun} named {name!r}; choose one of: {', '.join(sorted(known))}"
            )
