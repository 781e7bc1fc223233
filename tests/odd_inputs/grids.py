"""Files of a case that do not lie on one grid, channels that are missing or too many, shapes of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK

from tests.factories import make_phantom, rotation_xyz, write_case
from tests.odd_inputs.table import (
    FIRST,
    PLAIN,
    TWO_CHANNELS,
    VOLUME,
    edit,
    fine,
    image,
    label,
    odd,
    put,
    rewrite,
    write_series,
)

IMAGE = f"{FIRST}_0000.nii.gz"
LABEL = f"{FIRST}.nii.gz"
SECOND = f"{FIRST}_0001.nii.gz"
Z, Y, X = VOLUME.shape


def _labels(raw: Path, **geometry: object) -> None:
    """Write the label file of the first case elsewhere."""
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx.astype(np.uint8), replace(VOLUME, **geometry))  # type: ignore[arg-type]


def _channel(raw: Path, **geometry: object) -> None:
    """Write the second channel of the first case elsewhere."""
    rewrite(image(raw, channel=1), make_phantom(TWO_CHANNELS).voxels_czyx[1], replace(VOLUME, **geometry))  # type: ignore[arg-type]


@odd(
    "label file of another shape",
    "label-geometry",
    names=LABEL,
    says=f"({Z}, {Y}, {X}) and ({Z - 1}, {Y}, {X}) voxels",
)
def label_shape(raw: Path) -> None:
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx[1:].astype(np.uint8))


@odd(
    "label file with axes swapped",
    "label-geometry",
    names=LABEL,
    says=f"({Z}, {Y}, {X}) and ({X}, {Y}, {Z}) voxels",
)
def label_axes(raw: Path) -> None:
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx.transpose().astype(np.uint8))


@odd("label file of another spacing", "label-geometry", names=LABEL, says="(1, 1, 1) and (2, 1, 1) mm")
def label_spacing(raw: Path) -> None:
    _labels(raw, spacing=(2.0, 1.0, 1.0))


@odd(
    "spacing of the label file off by 1 in 50 000",
    "label-geometry",
    names=LABEL,
    says="and (1.00002, 1, 1) mm",
)
def label_spacing_slightly(raw: Path) -> None:
    _labels(raw, spacing=(1.00002, 1.0, 1.0))


@fine("spacing of the label file off by rounding")
def label_spacing_rounded(raw: Path) -> None:
    _labels(raw, spacing=(1.000003, 1.0, 1.0))


@odd("label file at another origin", "label-geometry", names=LABEL, says="(0, 0, 0) and (0, 3, 0) mm")
def label_origin(raw: Path) -> None:
    _labels(raw, origin_xyz=(0.0, 3.0, 0.0))


@odd("label file 0.05 voxels beside its image", "small-shift", names=LABEL, says="0.05 mm")
def label_shift(raw: Path) -> None:
    _labels(raw, origin_xyz=(0.05, 0.0, 0.0))


@fine("label file beside its image by rounding")
def label_rounded(raw: Path) -> None:
    _labels(raw, origin_xyz=(0.00005, 0.0, 0.0))


@odd("label file flipped", "label-geometry", names=LABEL, says="directions differ")
def label_flipped(raw: Path) -> None:
    _labels(raw, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


@odd("label file turned by 5 degrees", "label-geometry", names=LABEL, says="directions differ")
def label_oblique(raw: Path) -> None:
    _labels(raw, direction=rotation_xyz((0, 0, 5)))


@odd("channels of different shape", "channel-geometry", names=SECOND, says="voxels", recipe=TWO_CHANNELS)
def channel_shape(raw: Path) -> None:
    rewrite(image(raw, channel=1), make_phantom(TWO_CHANNELS).voxels_czyx[1][:, 1:])


@odd(
    "channels of different spacing",
    "channel-geometry",
    names=SECOND,
    says="and (1, 1, 1.5) mm",
    recipe=TWO_CHANNELS,
)
def channel_spacing(raw: Path) -> None:
    _channel(raw, spacing=(1.0, 1.0, 1.5))


@odd(
    "channels at different origins",
    "channel-geometry",
    names=SECOND,
    says="and (0, 0, -9) mm",
    recipe=TWO_CHANNELS,
)
def channel_origin(raw: Path) -> None:
    _channel(raw, origin_xyz=(0.0, 0.0, -9.0))


@odd("channel missing for one case", "missing-channel", says="the files hold 1", recipe=TWO_CHANNELS)
def channel_missing(raw: Path) -> None:
    image(raw, channel=1).unlink()


@odd("first channel missing for one case", "missing-channel", says=f"lacks {IMAGE}", recipe=TWO_CHANNELS)
def first_channel_missing(raw: Path) -> None:
    image(raw).unlink()


@odd("one channel too many", "channel-count", says="the files hold 2")
def channel_too_many(raw: Path) -> None:
    rewrite(image(raw).with_name(SECOND), make_phantom(TWO_CHANNELS).voxels_czyx[1])


@odd("channels numbered with a gap", "missing-channel", says=f"lacks {SECOND}", recipe=TWO_CHANNELS)
def channel_gap(raw: Path) -> None:
    image(raw, channel=1).rename(image(raw).with_name(f"{FIRST}_0002.nii.gz"))


def _four_dimensional(raw: Path, channels: int) -> None:
    """Write the image of the first case as one file with several channels."""
    rng = np.random.default_rng(1)
    for path in raw.glob(f"imagesTr/{FIRST}_*"):
        path.unlink()
    volumes = [rng.integers(1, 99, VOLUME.shape, np.int16) for _ in range(channels)]
    write_series(raw / "imagesTr" / IMAGE, volumes)


@odd("4-D file with fewer channels than channel_names", "missing-channel", says="the files hold 2")
def four_d_few(raw: Path) -> None:
    edit(raw, channel_names={"0": "a", "1": "b", "2": "c"})
    for number in range(VOLUME.cases):
        for channel in (1, 2) if number else ():
            rewrite(image(raw, number).with_name(f"phantom_{number:03d}_000{channel}.nii.gz"),
                    make_phantom(replace(VOLUME, channels=3), number).voxels_czyx[channel])  # fmt: skip
    _four_dimensional(raw, 2)


@odd("4-D file with more channels than channel_names", "channel-count", says="the files hold 3")
def four_d_many(raw: Path) -> None:
    _four_dimensional(raw, 3)


@fine("4-D file with the right number of channels", recipe=TWO_CHANNELS)
def four_d_right(raw: Path) -> None:
    _four_dimensional(raw, 2)


@odd("2D image among volumes", "mixed-dimensions", names=FIRST)
def flat_among_volumes(raw: Path) -> None:
    recipe = replace(VOLUME, shape=(1, 30, 31))
    write_case(raw, "Tr", FIRST, make_phantom(recipe), recipe)


@odd(
    "2D label file for a volume of one slice",
    "label-geometry",
    "mixed-dimensions",
    names=LABEL,
    says="(1, 1, 1) and (999, 1, 1) mm",
)
def flat_label(raw: Path) -> None:
    recipe = replace(VOLUME, shape=(1, 30, 31))
    write_case(raw, "Tr", FIRST, make_phantom(recipe), recipe)
    volume = SimpleITK.GetImageFromArray(make_phantom(recipe).voxels_czyx[0])
    SimpleITK.WriteImage(volume, str(image(raw)))


@odd("flat axis that is not the first", "flat-axis", says="(10, 14, 1)")
def flat_axis(raw: Path) -> None:
    rewrite(image(raw), make_phantom(VOLUME).voxels_czyx[0][:, :, 6:7])
    rewrite(label(raw), np.resize(np.array([0, 1, 2], np.uint8), (Z, Y, 1)))


@odd("image of one voxel", "small-image", "constant-image", "empty-reference", "mixed-dimensions", says="(1, 1, 1)",
     recipe=PLAIN)  # fmt: skip
def one_voxel(raw: Path) -> None:
    for path in (image(raw), label(raw)):
        put(path, "<8h", 40, 3, 1, 1, 1, 1, 1, 1, 1)
        size = 2 if path == image(raw) else 1
        path.write_bytes(path.read_bytes()[: 352 + size])


@odd("image of three slices", "small-image", says="(3, 14, 12)")
def three_slices(raw: Path) -> None:
    rewrite(image(raw), make_phantom(VOLUME).voxels_czyx[0][4:7])
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx[4:7].astype(np.uint8))
