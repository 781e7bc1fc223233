"""Every odd input: importing the rooms fills the table."""

from typing import Final

from tests.odd_inputs import (
    containers,
    descriptions,
    grids,
    headers,
    listings,
    names,
    pictures,
    streams,
    voxels,
    whole,
)
from tests.odd_inputs.table import ODD_INPUTS, OddInput

ROOMS: Final = (streams, headers, containers, pictures, voxels, grids, names, descriptions, listings, whole)

EVERY: Final[tuple[OddInput, ...]] = tuple(
    entry for room in ROOMS for entry in ODD_INPUTS if entry.make.__module__ == room.__name__
)
"""In the order of the rooms."""
