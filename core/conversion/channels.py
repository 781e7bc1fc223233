"""A volume that holds several channels, written as one volume per channel: same voxels, same type, same place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np

from core.io.compression import GZIP_WINDOW, gzipped
from core.io.image import Header, LabelArray
from core.io.itk import write_by_itk
from core.io.nifti import Nifti, read_nifti
from core.io.nifti_entries import UINT8
from core.io.payload import Payload, read_payload
from core.io.volume import NIFTI_ENDINGS, open_volume
from core.memory import Memory

VECTOR_INTENT: Final = 1007
"""NIfTI's code for files whose fifth axis holds the components of a vector; nifti1.h of nifti.nimh.nih.gov."""

SPLITTING_BYTES: Final = 2 * 2**30
"""What the voxels of the files that are split at the same time may take together."""

_memory = Memory(SPLITTING_BYTES)


def split_channels(path: Path, header: Header, targets: Sequence[Path]) -> None:
    """Write each channel of a volume as a file of its own.

    Of NIfTI, the header is copied byte for byte but for the number of axes, and so are the voxels: type,
    byte order, scaling, both transforms and extensions stay what they were. Nothing is written unless the
    whole file could be read and its checksums are right.

    Args:
        path: A volume of several channels.
        header: Its header.
        targets: One file per channel, of the format of the volume.

    Raises:
        ImageError: The file is damaged; nothing was written.
    """
    with _memory.of(header.values * header.stored_type.itemsize):
        if path.name.lower().endswith(NIFTI_ENDINGS):
            _split_nifti(read_nifti(path), header, targets)
            return
        file = open_volume(path)
        for voxels_zyx, target in zip(file.load(), targets, strict=True):
            write_by_itk(cast("LabelArray", np.ascontiguousarray(voxels_zyx)), file.header.geometry, target)


def _split_nifti(nifti: Nifti, header: Header, targets: Sequence[Path]) -> None:
    """Write a header with the axes of one channel, what follows it, and the bytes of that channel."""
    axes, entries = len(nifti.sizes_xyz), nifti.entries.copy()
    entries["dim"] = (axes, *entries["dim"][1:4], 1, 1, 1, 1)
    if entries["intent_code"] == VECTOR_INTENT:
        entries["intent_code"] = 0
    if nifti.channels_last:
        entries["datatype"], entries["bitpix"] = UINT8
    offset = int(entries["vox_offset"])
    count = offset + header.values * nifti.stored_type.itemsize
    window_bits = GZIP_WINDOW if nifti.is_compressed else None
    content = read_payload(nifti.path, Payload(0, window_bits=window_bits), count, np.dtype(np.uint8))
    block = entries.tobytes()
    head = block + content[len(block) : offset].tobytes()
    stored = content[offset:]
    channels = (
        stored.reshape(-1, header.channels).T if nifti.channels_last else stored.reshape(header.channels, -1)
    )
    for channel, target in zip(channels, targets, strict=True):
        voxels = np.ascontiguousarray(channel).data
        if target.name.lower().endswith(".gz"):
            target.write_bytes(gzipped(head, voxels))
            continue
        with target.open("wb") as file:
            file.write(head)
            file.write(voxels)
