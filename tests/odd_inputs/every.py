"""Every odd input: importing this fills the table."""

from tests.odd_inputs import (
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
from tests.odd_inputs.table import ODD_INPUTS

__all__ = ["ODD_INPUTS"]

ROOMS = (streams, headers, voxels, grids, pictures, names, descriptions, listings, whole)
"""In the order of the table."""
