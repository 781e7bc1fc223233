from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from core.errors import ImageError
from core.io.image import Geometry, Image, LabelMap
from core.io.preview import (
    GAP_PIXELS,
    LINE_PIXELS,
    PANEL_PIXELS,
    draw_preview,
    label_color,
    save_preview,
    upright,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def _geometry(
    spacing: tuple[float, float, float] = (1, 1, 1), direction: tuple[float, ...] = IDENTITY
) -> Geometry:
    return Geometry(
        spacing=spacing, file_spacing_xyz=spacing[::-1], origin_xyz=(0, 0, 0), direction=direction
    )


def _case(geometry: Geometry, shape: tuple[int, int, int] = (10, 20, 30)) -> tuple[Image, LabelMap]:
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[4:7, 5:9, 20:25] = 1
    return Image(rng.random((2, *shape), dtype=np.float32), geometry), LabelMap(labels, geometry)


def test_slices_have_the_proportions_of_the_millimetres() -> None:
    image, prediction = _case(_geometry(spacing=(6, 1, 1)))

    picture = draw_preview(image, prediction)

    mm = PANEL_PIXELS / 60
    assert picture.width == round(30 * mm) + round(30 * mm) + round(20 * mm) + 4 * GAP_PIXELS
    assert picture.height == 2 * (LINE_PIXELS + round(60 * mm) + GAP_PIXELS) + GAP_PIXELS


def test_labels_are_seen_in_their_color_and_a_reference_adds_a_row() -> None:
    image, prediction = _case(_geometry())

    alone = draw_preview(image, prediction)
    compared = draw_preview(image, prediction, prediction)

    color = np.asarray(label_color(1))
    outline = (np.asarray(alone) == color).all(axis=2).sum()
    assert outline > 100
    assert (np.asarray(compared) == color).all(axis=2).sum() == 2 * outline
    assert compared.height > alone.height


def test_stored_order_does_not_change_what_is_above() -> None:
    voxels = np.zeros((4, 5, 6), dtype=np.float32)
    voxels[3, 0, 1] = 1
    flipped = _geometry(direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))

    turned, _ = upright(voxels[::-1, :, ::-1], flipped)

    assert np.array_equal(turned, voxels)


def test_axes_stored_in_another_order_are_turned_upright() -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    stored_zyx = voxels.transpose(2, 0, 1)
    # Index x runs posterior, index y superior, index z left: the columns of the direction matrix.
    direction = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    turned, spacing = upright(stored_zyx, _geometry((1, 2, 3), direction))

    assert np.array_equal(turned, voxels)
    assert spacing == (2, 3, 1)


def test_an_empty_segmentation_of_a_constant_image_is_drawn_too() -> None:
    geometry = _geometry()
    empty = LabelMap(np.zeros((3, 4, 5), dtype=np.uint8), geometry)

    picture = draw_preview(Image(np.ones((1, 3, 4, 5), dtype=np.float32), geometry), empty)

    assert picture.width > PANEL_PIXELS


def test_a_slice_has_one_column_and_names_become_a_legend(tmp_path: Path) -> None:
    geometry = Geometry(
        spacing=(999, 1, 1), file_spacing_xyz=(1, 1), origin_xyz=(0, 0), direction=(1, 0, 0, 1)
    )
    labels = np.zeros((1, 40, 80), dtype=np.uint8)
    labels[0, 10:30, 10:30] = 2
    image = Image(np.zeros((1, 1, 40, 80), dtype=np.float32), geometry)

    plain = draw_preview(image, LabelMap(labels, geometry))
    save_preview(tmp_path / "p.png", image, LabelMap(labels, geometry), names={2: "putamen"})

    assert plain.width == PANEL_PIXELS + 16
    with Picture.open(tmp_path / "p.png") as saved:
        assert saved.format == "PNG"
        assert saved.height > plain.height
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_labels_on_another_grid_are_refused() -> None:
    image, _ = _case(_geometry())
    _, other = _case(_geometry(), (10, 20, 31))

    with pytest.raises(ImageError, match="prediction has shape"):
        draw_preview(image, other)
