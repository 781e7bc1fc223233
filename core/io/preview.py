"""A picture of a segmentation: three orthogonal slices in true proportions, labels in color over grey."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw

from core.domain.geometry import Spacing
from core.errors import ImageError
from core.io.image import Geometry, Image, LabelMap

PANEL_PIXELS = 320
"""Longest side of the image; all slices share one scale."""

GAP_PIXELS = 8
"""Space between slices, and around the whole."""

LINE_PIXELS = 16
"""Height of a line of text."""

OPACITY = 0.35
"""Of a label's area; its outline is opaque."""

GREY_PERCENTILES = (0.5, 99.5)
"""Intensities shown as black and white, so that a few bright voxels do not darken the rest."""

HUE_STEP = 0.61803398875
"""The golden ratio's fraction: successive hues differ as much as possible, however many there are."""

PHYSICAL_AXES = 3
"""Left, posterior, superior."""

AnyArray = npt.NDArray[Any]
ColorArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Plane:
    """One slice through all arrays, upright."""

    axis: int
    index: int
    scale: tuple[float, float]
    """Pixels per voxel, along rows and columns."""


def save_preview(
    path: Path,
    image: Image,
    prediction: LabelMap,
    reference: LabelMap | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Draw a preview and save it as PNG, by temporary name and rename.

    Args:
        path: Of the picture.
        image: Its first channel is shown in grey.
        prediction: Labels on the image's grid.
        reference: Labels to compare with, on the same grid.
        names: Of the labels, for a legend; none is drawn without.

    Raises:
        ImageError: A label map has another shape than the image.
    """
    picture = draw_preview(image, prediction, reference, names)
    temporary = path.with_name(path.name + ".partial")
    picture.save(temporary, format="PNG", compress_level=4)  # The smallest file takes ten times as long.
    temporary.replace(path)


def draw_preview(
    image: Image,
    prediction: LabelMap,
    reference: LabelMap | None = None,
    names: Mapping[int, str] | None = None,
) -> Picture.Image:
    """Draw rows of image, reference (if given) and prediction; columns are axial, coronal and sagittal.

    Slices are those with the most foreground: through the middle of one organ, and never through the
    gap between two. They stand upright in the patient's axes, front above and head above, right side
    of the patient on the left, as far as the file's direction tells.

    Raises:
        ImageError: A label map has another shape than the image.
    """
    maps = (
        {"prediction": prediction}
        if reference is None
        else {"reference": reference, "prediction": prediction}
    )
    for name, labels in maps.items():
        if labels.labels_zyx.shape != image.shape:
            raise ImageError(f"the {name} has shape {labels.labels_zyx.shape}, the image {image.shape}")
    grey_zyx, spacing = upright(image.voxels_czyx[0], image.geometry)
    overlays = {name: upright(labels.labels_zyx, image.geometry)[0] for name, labels in maps.items()}
    planes = _planes(next(iter(overlays.values())), spacing)
    window = np.percentile(grey_zyx, GREY_PERCENTILES)
    rows = [("image", [_grey_panel(grey_zyx, plane, window) for plane in planes])]
    for name, labels_zyx in overlays.items():
        panels = [
            _overlaid(panel, labels_zyx, plane) for panel, plane in zip(rows[0][1], planes, strict=True)
        ]
        rows.append((name, panels))
    present = sorted({int(v) for labels_zyx in overlays.values() for v in np.unique(labels_zyx) if v > 0})
    legend = [(label, names.get(label, str(label))) for label in present] if names else []
    return _assembled(rows, legend)


def upright(array_zyx: AnyArray, geometry: Geometry) -> tuple[AnyArray, Spacing]:
    """Turn an array so that its axes run to superior, posterior and left, whichever way it was stored.

    Oblique directions are taken as the nearest right-angled ones; voxels are not interpolated.

    Args:
        array_zyx: On the grid of the file.
        geometry: Its direction tells where axes point; a 2D image stays as it is.

    Returns:
        The array as a view, axes superior, posterior, left; and its spacing in millimetres.
    """
    if geometry.is_2d or len(geometry.direction) != PHYSICAL_AXES**2:
        return array_zyx, geometry.spacing
    direction = np.asarray(geometry.direction).reshape(PHYSICAL_AXES, PHYSICAL_AXES)[::-1, ::-1]
    order: list[int] = []
    for physical in range(PHYSICAL_AXES):
        free = [axis for axis in range(PHYSICAL_AXES) if axis not in order]
        order.append(free[int(np.abs(direction[physical, free]).argmax())])
    turned = array_zyx.transpose(order)
    backward = [physical for physical, axis in enumerate(order) if direction[physical, axis] < 0]
    z, y, x = (geometry.spacing[axis] for axis in order)
    return np.flip(turned, tuple(backward)), (z, y, x)


def _planes(labels_zyx: AnyArray, spacing: Spacing) -> list[_Plane]:
    """Choose a slice per axis: the one with the most foreground, or the middle one; just one of a flat image."""
    foreground = labels_zyx > 0
    flat = [axis for axis in range(PHYSICAL_AXES) if labels_zyx.shape[axis] == 1]
    sides = [size * mm for size, mm in zip(labels_zyx.shape, spacing, strict=True) if size > 1 or not flat]
    pixels_per_mm = PANEL_PIXELS / max(sides, default=max(spacing))
    planes = []
    for axis in flat[:1] or range(PHYSICAL_AXES):
        others = tuple(other for other in range(PHYSICAL_AXES) if other != axis)
        counts = foreground.sum(axis=others)
        index = int(counts.argmax()) if counts.any() else labels_zyx.shape[axis] // 2
        row, column = (spacing[other] * pixels_per_mm for other in others)
        planes.append(_Plane(axis, index, (row, column)))
    return planes


def _slice(array_zyx: AnyArray, plane: _Plane) -> AnyArray:
    """Cut a plane out, head or front above."""
    flat: AnyArray = array_zyx.take(plane.index, axis=plane.axis)
    return flat if plane.axis == 0 else flat[::-1]


def _panel_size(shape: Sequence[int], plane: _Plane) -> tuple[int, int]:
    """Return width and height in pixels, in the proportions of the millimetres."""
    height, width = (round(count * scale) for count, scale in zip(shape, plane.scale, strict=True))
    return max(1, width), max(1, height)


def _grey_panel(grey_zyx: AnyArray, plane: _Plane, window: npt.NDArray[np.float64]) -> ColorArray:
    """Draw one slice in grey, (row, column, 3)."""
    flat = _slice(grey_zyx, plane).astype(np.float32)
    low, high = window
    share = (flat - low) / (high - low) if high > low else np.zeros_like(flat)
    levels = (share.clip(0, 1) * 255).astype(np.uint8)
    size = _panel_size(flat.shape, plane)
    return np.asarray(Picture.fromarray(levels).resize(size, Picture.Resampling.BILINEAR).convert("RGB"))


def _overlaid(panel: ColorArray, labels_zyx: AnyArray, plane: _Plane) -> ColorArray:
    """Lay labels over a grey panel: areas translucent, outlines opaque."""
    flat = _slice(labels_zyx, plane).astype(np.int32)
    rows = np.arange(panel.shape[0]) * flat.shape[0] // panel.shape[0]
    columns = np.arange(panel.shape[1]) * flat.shape[1] // panel.shape[1]
    enlarged = flat[rows][:, columns]
    blended = panel.astype(np.float32)
    for label in np.unique(enlarged[enlarged > 0]):
        area = enlarged == label
        color = np.asarray(label_color(int(label)), dtype=np.float32)
        blended[area] += OPACITY * (color - blended[area])
        blended[area & ~_interior(area)] = color
    return blended.astype(np.uint8)


def _interior(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels whose four neighbours belong to the area too; beyond the border counts as inside."""
    wide = np.pad(area, 1, constant_values=True)
    inside: npt.NDArray[np.bool_] = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return inside


def label_color(label: int) -> tuple[int, int, int]:
    """Return the color of a label, the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb((label - 1) * HUE_STEP % 1, 0.85, 1.0)
    return (round(red * 255), round(green * 255), round(blue * 255))


def _assembled(
    rows: Sequence[tuple[str, Sequence[ColorArray]]], legend: Sequence[tuple[int, str]]
) -> Picture.Image:
    """Put titled rows of panels, and the legend below them, onto one black picture."""
    first = rows[0][1]
    row_height = LINE_PIXELS + max(len(panel) for panel in first) + GAP_PIXELS
    width = GAP_PIXELS + sum(panel.shape[1] + GAP_PIXELS for panel in first)
    picture = Picture.new("RGB", (width, row_height * len(rows) + GAP_PIXELS))
    draw = ImageDraw.Draw(picture)
    top = GAP_PIXELS // 2
    for title, panels in rows:
        draw.text((GAP_PIXELS, top), title, fill="white")
        left = GAP_PIXELS
        for panel in panels:
            picture.paste(Picture.fromarray(panel), (left, top + LINE_PIXELS))
            left += panel.shape[1] + GAP_PIXELS
        top += row_height
    return _with_legend(picture, legend) if legend else picture


def _with_legend(picture: Picture.Image, legend: Sequence[tuple[int, str]]) -> Picture.Image:
    """Append a strip that names the colors, in as many lines as it needs."""
    draw = ImageDraw.Draw(picture)
    places: list[tuple[int, int]] = []
    left, line = GAP_PIXELS, 0
    for _, name in legend:
        width = LINE_PIXELS + round(draw.textlength(name)) + 2 * GAP_PIXELS
        if left + width > picture.width and left > GAP_PIXELS:
            left, line = GAP_PIXELS, line + 1
        places.append((left, picture.height + line * LINE_PIXELS))
        left += width
    extended = Picture.new("RGB", (picture.width, picture.height + (line + 1) * LINE_PIXELS + GAP_PIXELS))
    extended.paste(picture, (0, 0))
    draw = ImageDraw.Draw(extended)
    for (label, name), (x, y) in zip(legend, places, strict=True):
        draw.rectangle((x, y + 2, x + LINE_PIXELS - 6, y + LINE_PIXELS - 4), fill=label_color(label))
        draw.text((x + LINE_PIXELS, y), name, fill="white")
    return extended
