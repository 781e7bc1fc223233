import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ImageError
from core.inference.properties import geometry_of_properties
from core.io.nifti import affine_of

SPACING, ORIGIN = (0.9, 1.25, 2.0), (3.0, -4.0, 5.0)
DIRECTION = (1, 0, 0, 0, 1, 0, 0, 0, 1)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def _saved(tmp_path: Path, values: object, protocol: int = 4) -> Path:
    path = tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps(values, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "make", [tuple, list, np.array, lambda numbers: tuple(np.float64(n) for n in numbers)]
)
def test_simpleitks_properties_are_understood(tmp_path: Path, make: Any, protocol: int) -> None:
    values = {
        "sitk_stuff": {"spacing": make(SPACING), "origin": make(ORIGIN), "direction": make(DIRECTION)},
        "spacing": [2.0, 1.25, 0.9],
        "shape_before_cropping": (3, 4, 5),
        "bbox_used_for_cropping": [[0, 3], [0, 4], [np.int64(0), 5]],
        "class_locations": {1: np.array([[0, 1, 2, 3]])},
    }

    geometry = geometry_of_properties(_saved(tmp_path, values, protocol))

    assert geometry.spacing == (2.0, 1.25, 0.9)
    assert (geometry.file_spacing_xyz, geometry.origin_xyz) == (SPACING, ORIGIN)
    assert geometry.direction == DIRECTION


def test_a_2d_image_stays_one(tmp_path: Path) -> None:
    placed = {"spacing": (0.5, 0.25), "origin": (1.0, 2.0), "direction": (1.0, 0.0, 0.0, 1.0)}

    geometry = geometry_of_properties(_saved(tmp_path, {"sitk_stuff": placed, "spacing": [499.5, 0.25, 0.5]}))

    assert geometry.is_2d
    assert geometry.spacing == (499.5, 0.25, 0.5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_nibabels_properties_are_understood(tmp_path: Path, order: Any) -> None:
    affine = np.array([[-0.9, 0, 0, 12], [0, 1.25, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1]])
    placed = {"original_affine": np.asarray(affine, order=order)}

    geometry = geometry_of_properties(
        _saved(tmp_path, {"nibabel_stuff": placed, "spacing": [2.0, 1.25, 0.9]})
    )

    assert np.allclose(affine_of(geometry), affine)
    assert geometry.spacing == (2.0, 1.25, 0.9)


@pytest.mark.parametrize(("spacing", "axes"), [((999, 1, 1), 2), ((3.0, 0.5, 0.5), 3)])
def test_pictures_and_stacks_know_no_place(tmp_path: Path, spacing: tuple[float, ...], axes: int) -> None:
    geometry = geometry_of_properties(_saved(tmp_path, {"spacing": spacing}))

    assert len(geometry.file_spacing_xyz) == axes
    assert geometry.spacing == spacing


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"spacing": [1, 1, 1], "sitk_stuff": {"spacing": "abc", "origin": ORIGIN, "direction": DIRECTION}},
        {"spacing": [1, 1, 1], "sitk_stuff": {"spacing": SPACING}},
        {"spacing": [1, 1, 1], "nibabel_stuff": {"original_affine": np.eye(3)}},
        {"spacing": [1, 1, 1], "nibabel_stuff": {"original_affine": np.array([None] * 16)}},
        {"spacing": [1, 1, 1], "nibabel_stuff": {"original_affine": np.eye(4), "reoriented_affine": np.eye(4)}},
        {
            "spacing": [1, 1, 1],
            "sitk_stuff": {
                "spacing": SPACING, "origin": ORIGIN, "direction": DIRECTION, "original_orientation": "RAS",
            },
        },
    ],
)  # fmt: skip
def test_what_does_not_say_where_is_refused(tmp_path: Path, values: object) -> None:
    with pytest.raises(ImageError, match=r"case\.pkl does not say where"):
        geometry_of_properties(_saved(tmp_path, values))


@pytest.mark.parametrize("values", [[1, 2], Payload(), {"spacing": Payload()}])
def test_nothing_that_a_file_names_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: object
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ImageError, match=r"case\.pkl cannot be used"):
        geometry_of_properties(_saved(tmp_path, values))
    assert not Path("ran").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"spacing": [1, 1, 1]})
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(ImageError, match=r"case\.pkl cannot be used"):
        geometry_of_properties(path)
    with pytest.raises(ImageError, match=r"other\.pkl cannot be read"):
        geometry_of_properties(tmp_path / "other.pkl")


def test_an_array_that_claims_more_than_it_holds_is_not_made(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"spacing": [1, 1, 1], "nibabel_stuff": {"original_affine": np.eye(4)}}, 3)
    content = path.read_bytes()
    assert b"K\x04K\x04\x86" in content

    path.write_bytes(content.replace(b"K\x04K\x04\x86", b"K\xffK\xff\x86"))

    with pytest.raises(ImageError, match="does not say where"):
        geometry_of_properties(path)
