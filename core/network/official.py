"""Checkpoints of the official tools: zips of a pickle and of values, read without running what they name."""

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor

from core.errors import ArchiveError, ModelError
from core.io.archive import require_few_entries
from core.network.pickled import ORDERED, Call, Name, PickleError, Reference, read_pickle
from core.network.weights import canonical

WEIGHTS: Final = "network_weights"
"""Where a checkpoint has its weights."""

TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
"""Calls by which a pickle says what a tensor is."""

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""Number formats, by the names of what holds the values."""

ADMITTED: Final = frozenset(
    {
        *(ORDERED, TENSOR, PARAMETER, *DTYPES),
        *(
            "torch._utils._rebuild_sparse_tensor",
            "torch.serialization._get_layout",
            "torch.Size",
            "torch.device",
        ),
        *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
        *("numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct"),
        *("numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct"),
    }
)
"""What a checkpoint may name: tensors, and scores of numpy's and devices, which are not made."""

LARGEST_PICKLE: Final = 2**26
"""Bytes, without the tensors; of 1000 epochs with a hundred labels a fifth."""

MOST_ENTRIES: Final = 100_000
"""Tensors in a file, the optimizer's too; the largest network of the method has some thousand."""

MOST_AXES: Final = 8
"""Of a tensor."""

LOCAL_HEADER: Final = struct.Struct("<26x2H")
"""Of an entry of a zip: lengths of its name and extra field (APPNOTE 4.3.7)."""


@dataclass(frozen=True, slots=True)
class OfficialCheckpoint:
    """What is read of a checkpoint."""

    weights: Mapping[str, Tensor]
    """Each once, under its canonical name; on the CPU, and in the file until they are used."""
    configuration: str | None
    trainer: str | None
    mirror_axes: tuple[int, ...]
    """Axes of the patch along which prediction may mirror."""
    epochs: int | None
    """How many were trained."""


@dataclass(frozen=True, slots=True)
class _File:
    """A checkpoint, its values still in the file."""

    path: Path
    contents: Any
    places: Mapping[str, tuple[int, int]]
    """Of each storage: where it begins, and how many bytes it has."""


def read_official_weights(path: Path) -> Mapping[str, Tensor]:
    """Read the weights alone; see `read_official_checkpoint`.

    Raises:
        ModelError: As there.
    """
    return read_official_checkpoint(path).weights


def read_official_checkpoint(path: Path) -> OfficialCheckpoint:
    """Read a checkpoint of nnU-Net v2.

    Tensors stay in the file until they are used. What the file says of their sizes is compared with the bytes that
    it has before anything is made of it.

    Args:
        path: A checkpoint_final.pth, or another one that holds `network_weights`.

    Raises:
        ModelError: It cannot be read, names something that is not a tensor or a plain value, holds no weights, or
            lies about their sizes.

    Source:
        Engine specification A 1.12, B 1.12.
    """
    try:
        file = _opened(path)
    except OSError as error:
        raise ModelError(
            f"{path.name} cannot be read: {error.strerror}; check the path", file=path.name
        ) from error
    except PickleError as error:
        raise ModelError(_refusal(path, error), file=path.name) from error
    except (ArchiveError, zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
        raise ModelError(_damaged(path), file=path.name) from error
    contents = file.contents if isinstance(file.contents, dict) else {}
    weights = contents.get(WEIGHTS)
    if not isinstance(weights, dict) or not weights:
        raise ModelError(
            f"{path.name} holds no {WEIGHTS}; give a checkpoint of nnU-Net v2, such as checkpoint_final.pth",
            file=path.name,
        )
    arguments = contents.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
    trainer, epochs = contents.get("trainer_name"), contents.get("current_epoch")
    return OfficialCheckpoint(
        weights=_tensors(file, weights),
        configuration=configuration if isinstance(configuration, str) else None,
        trainer=trainer if isinstance(trainer, str) else None,
        mirror_axes=_mirror_axes(path, contents.get("inference_allowed_mirroring_axes")),
        epochs=epochs if type(epochs) is int and epochs >= 0 else None,
    )


def _mirror_axes(path: Path, axes: Any) -> tuple[int, ...]:
    """Return the axes along which prediction may mirror."""
    if axes is None:
        return ()
    if not isinstance(axes, tuple | list) or not all(type(axis) is int and 0 <= axis <= 2 for axis in axes):  # noqa: PLR2004 - z, y, x
        raise ModelError(f"{path.name} allows mirroring along something that is no axis", file=path.name)
    return tuple(sorted(set(axes)))


def _opened(path: Path) -> _File:
    """Read what a file says, without the values of its tensors."""
    if not zipfile.is_zipfile(path):
        path.open("rb").close()  # A file that is not there says so.
        raise PickleError("it is no zip, as torch writes since version 1.6")
    require_few_entries(path, MOST_ENTRIES)
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise PickleError("it is compressed, which torch never does")
        top = next(
            (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")), ""
        )
        if not top or archive.getinfo(top).file_size > LARGEST_PICKLE:
            raise PickleError("it has no data.pkl, or one of absurd size")
        folder = top.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.NameToInfo and archive.read(f"{folder}byteorder") != b"little":
            raise PickleError("its numbers have another byte order")
        contents = read_pickle(io.BytesIO(archive.read(top)), ADMITTED)
        storages = {
            member.filename.removeprefix(f"{folder}data/"): member
            for member in members
            if member.filename.startswith(f"{folder}data/")
        }
        places = {}
        for key, member in storages.items():
            raw.seek(member.header_offset)
            header = raw.read(LOCAL_HEADER.size)
            begin = member.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(header))
            places[key] = (begin, member.file_size)
    return _File(path, contents, places)


def _tensors(file: _File, weights: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Make the tensors of a network, each once.

    Raises:
        ModelError: Something is no tensor, or not what it says.
    """
    size = file.path.stat().st_size
    values = cast("torch.UntypedStorage", torch.UntypedStorage.from_file(str(file.path), False, size))  # noqa: FBT003 - copies on write
    made = {}
    for name, said in weights.items():
        try:
            made[name] = _tensor(file, values, said)
        except (PickleError, ValueError, TypeError, LookupError) as error:
            reason = f": {error}" if isinstance(error, PickleError) else ""
            raise ModelError(
                f"{file.path.name} holds something else than a tensor as {name!r}{reason}; have it exported again",
                file=file.path.name,
            ) from error
        if not isinstance(name, str):
            raise ModelError(f"{file.path.name} holds something else than a tensor as {name!r}")
    tensors = canonical(made)
    if sum(tensor.nbytes for tensor in tensors.values()) > size:
        raise ModelError(f"{file.path.name} holds tensors that share their values; have it exported again")
    return tensors


def _tensor(file: _File, values: torch.UntypedStorage, said: Any) -> Tensor:
    """Make one tensor, of values in the file, if it is what it says.

    Raises:
        PickleError: It is not.
        ValueError, TypeError, LookupError: It is no tensor.
    """
    if isinstance(said, Call) and said.name == PARAMETER:
        said = said.arguments[0]
    if not isinstance(said, Call) or said.name != TENSOR:
        raise TypeError("no tensor")
    stored, offset, shape, strides = said.arguments[:4]
    if not isinstance(stored, Reference):
        raise TypeError("no storage")
    kind, held, key, _, count = stored.description
    if kind != "storage" or not isinstance(held, Name):
        raise TypeError("no storage")
    dtype = DTYPES[held.dotted]
    begin, size = file.places[key]
    figures = (offset, count, *shape, *strides)
    if any(type(figure) is not int or figure < 0 for figure in figures) or len(shape) != len(strides):
        raise PickleError("its shape is none")
    if count * dtype.itemsize != size:
        raise PickleError(f"it says that it has {count} values, but its file holds {size // dtype.itemsize}")
    reach = offset + sum(stride * (edge - 1) for stride, edge in zip(strides, shape, strict=True)) + 1
    if len(shape) > MOST_AXES or prod(shape) > count or (prod(shape) and reach > count):
        raise PickleError(f"its shape {list(shape)[:MOST_AXES]} needs more than its {count} values")
    return torch.empty(0, dtype=dtype).set_(values[begin : begin + size], offset, shape, strides)


def _damaged(path: Path, why: str = "it is damaged, or of another kind") -> str:
    """Say that a file is no checkpoint."""
    return f"{path.name} is no checkpoint that can be read: {why}; copy it again"


def _refusal(path: Path, error: PickleError) -> str:
    """Say why a file is not read."""
    if error.name is None:
        return _damaged(path, str(error))
    return (
        f"{path.name} names {error.name}, which could run code and is never loaded; a checkpoint may hold only "
        "tensors and plain values: get it from elsewhere, or have it exported again by the tool that made it"
    )
