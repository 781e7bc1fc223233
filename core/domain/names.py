"""The names that a plan or a setting may use, as data: so that a plan can be checked where their implementations are not loaded."""

import re
from collections.abc import Collection, Mapping
from typing import Final, get_args

from core import extensions
from core.domain.training import AugmentationName, LossName
from core.extensions import Group

_PICTURES: Final = (".png", ".bmp", ".tif", ".tiff")
_VOLUMES: Final = (".nii", ".nii.gz", ".nrrd", ".mha", ".gipl")

READER_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "NaturalImage2DIO": _PICTURES,
    "NibabelIO": _VOLUMES,
    "NibabelIOWithReorient": _VOLUMES,
    "SimpleITKIO": _VOLUMES,
    "SimpleITKIOWithReorient": _VOLUMES,
    "Tiff3DIO": (".tif", ".tiff"),
}
"""Of `core.io.readers.READERS`, with the endings of all files that each can read."""

NORMALIZATION_NAMES: Final = frozenset(
    {
        "CTNormalization",
        "NoNormalization",
        "RGBTo01Normalization",
        "RescaleTo01Normalization",
        "ZScoreNormalization",
    }
)
"""Of `core.preprocessing.normalize.NORMALIZATIONS`."""

RESAMPLING_NAMES: Final = frozenset(
    {
        "no_resampling_hack",
        "resample_data_or_seg_to_shape",
        "resample_data_or_seg_to_spacing",
        "resample_labels_by_threshold",
        "resample_torch_fornnunet",
        "resample_torch_simple",
    }
)
"""Of `core.preprocessing.resample.RESAMPLINGS`."""

UNCHANGED_GRID: Final = "no_resampling_hack"
"""The one of them that leaves every image on its own grid."""

NETWORK_NAMES: Final = frozenset({"PlainConvUNet", "ResidualEncoderUNet"})
"""Of `core.network.unet.ARCHITECTURES`, by the last part of a dotted name."""

CONVOLUTION_NAMES: Final = {"Conv2d": 2, "Conv3d": 3}
"""Of `core.network.blocks.CONVOLUTIONS`, with their spatial axes."""

NORM_NAMES: Final = {"BatchNorm2d": 2, "BatchNorm3d": 3, "InstanceNorm2d": 2, "InstanceNorm3d": 3}
"""Of `core.network.blocks.NORMS`, with their spatial axes."""

ACTIVATION_NAMES: Final = frozenset({"LeakyReLU", "ReLU"})
"""Of `core.network.blocks.ACTIVATIONS`."""


def reader_names() -> frozenset[str]:
    """Return the names of all readers, those of packages too; which files those read is known where they are loaded.

    Raises:
        ExtensionError: A package takes a name that is taken, here and below.
    """
    return _all(Group.READER, READER_FORMATS)


def normalization_names() -> frozenset[str]:
    """Return the names of all normalization schemes, those of packages too."""
    return _all(Group.NORMALIZATION, NORMALIZATION_NAMES)


def resampling_names() -> frozenset[str]:
    """Return the names of all resampling functions, those of packages too."""
    return _all(Group.RESAMPLING, RESAMPLING_NAMES)


def network_names() -> frozenset[str]:
    """Return the names of all networks, those of packages too."""
    return _all(Group.ARCHITECTURE, NETWORK_NAMES)


def loss_names() -> frozenset[str]:
    """Return the names that the setting `loss` may have, those of packages too."""
    return _all(Group.LOSS, get_args(LossName))


def augmentation_names() -> frozenset[str]:
    """Return the names that the setting `augmentation` may have, those of packages too."""
    return _all(Group.AUGMENTATION, get_args(AugmentationName))


def _all(group: Group, own: Collection[str]) -> frozenset[str]:
    """Add the names that packages give, from their metadata alone."""
    return frozenset(own).union(extensions.names(group, own))


def last_part(name: str) -> str:
    """Return the last part of a dotted name: names are looked up, never imported."""
    return name.rpartition(".")[2]


PLANS_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What plans and configurations may be called: a part of file and folder names on every system."""

NAME_SEPARATOR: Final = "__"
"""Between trainer, plans and configuration in the name of a model's folder; Engine specification A 1.11."""

NAME_RULE: Final = "write letters, digits, '.', '-' and single '_', at most 100, the first a letter or digit"

DATA_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
"""What the folder of preprocessed cases may be called: room for the names of plans and of a configuration."""


def plans_name_mistake(name: str) -> str | None:
    """Say why plans cannot be called so, and what they can be called; None if they can."""
    return _name_mistake("plans", name, f"Trainer{NAME_SEPARATOR}Plans{NAME_SEPARATOR}3d_fullres")


def configuration_name_mistake(name: str) -> str | None:
    """Say why a configuration cannot be called so, and what it can be called; None if it can."""
    return _name_mistake(
        "a configuration", name, f"Trainer{NAME_SEPARATOR}Plans{NAME_SEPARATOR}Configuration"
    )


def _name_mistake(what: str, name: str, folder: str) -> str | None:
    if PLANS_NAME.fullmatch(name) and NAME_SEPARATOR not in name:
        return None
    return (
        f"{what} cannot be named {name!r}: the name is part of the names of files and folders, such as "
        f"{folder}; {NAME_RULE}"
    )


def data_identifier_mistake(name: str) -> str | None:
    """Say why preprocessed cases cannot be kept under a name, and what it can be; None if they can."""
    if DATA_IDENTIFIER.fullmatch(name):
        return None
    return (
        f"{name!r} cannot be the name of a folder, which it is for preprocessed cases; write letters, digits, '.', "
        "'-' and '_', at most 201, the first a letter or digit, or leave it out"
    )
