"""NIfTI headers say what ITK and nibabel read in them, to the last bit."""

from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ImageError
from core.io.image import Geometry, LabelMap, array_spacing
from core.io.nifti_entries import parse_entries
from core.io.readers import choose_reader, read_header, read_image, read_labels, reader_for_file, write_labels
from core.io.transforms import placed_by_itk
from tests.core.io.test_readers import described
from tests.factories import rotation_xyz

sitk: Any = SimpleITK
nib: Any = nibabel
NIFTI_1: Any = nibabel.Nifti1Header
SHAPE_XYZ = (4, 5, 6)
SIZES = st.floats(0.0625, 20, width=32)
PLACES = st.floats(-500, 500, width=32)
ANGLES = st.floats(-180, 180)
SHEAR = st.sampled_from([0.0, 0.0, 1e-6, 3e-5, 2e-4, 0.1])


def header_block(entries: dict[str, Any], axes: int) -> bytes:
    """Return a NIfTI-1 header of unsigned bytes with some entries set."""
    header = NIFTI_1()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(SHAPE_XYZ[:axes])
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in entries.items():
        header[name] = value
    return bytes(header.binaryblock)


@st.composite
def transforms(draw: st.DrawFn) -> dict[str, Any]:
    """Draw spacing, unit, codes, quaternion and matrix."""
    spacing = np.array([draw(SIZES) for _ in range(3)], np.float32)
    angles = [draw(ANGLES | st.sampled_from([0.0, 90.0, 180.0])) for _ in range(3)]
    direction = np.reshape(rotation_xyz(angles), (3, 3))
    direction[:, 0] += draw(SHEAR) * direction[:, 1]
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    length = np.linalg.norm(quaternion)
    quaternion = quaternion / length if length > 0.1 else np.array([1.0, 0, 0, 0])
    place = [draw(PLACES) for _ in range(3)]
    entries = {
        "pixdim": [draw(st.sampled_from([1, -1])), *spacing, 1, 1, 1, 1],
        "xyzt_units": draw(st.sampled_from([0, 2, 10, 1, 3])),
        "qform_code": draw(st.sampled_from([0, 1, 2])),
        "sform_code": draw(st.sampled_from([0, 1, 2, 4])),
    }
    entries |= dict(zip(("quatern_b", "quatern_c", "quatern_d"), quaternion[1:].tolist(), strict=True))
    entries |= dict(zip(("qoffset_x", "qoffset_y", "qoffset_z"), place, strict=True))
    for name, row, offset in zip(("srow_x", "srow_y", "srow_z"), direction * spacing, place, strict=True):
        entries[name] = [*row, offset]
    return entries


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=transforms(), axes=st.sampled_from([2, 3]))
def test_the_place_in_space_is_itks_to_the_last_bit(
    tmp_path: Path, entries: dict[str, Any], axes: int
) -> None:
    block = header_block(entries, axes)
    path = tmp_path / "a.nii"
    path.write_bytes(block + bytes(4 + int(np.prod(SHAPE_XYZ[:axes]))))

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as refusal:
        if "determinant" in str(refusal):  # A plane that stands upright, which is read nevertheless.
            return
        with pytest.raises(ImageError, match="sheared axes"):
            read_header(path, "SimpleITKIO")
        return
    parsed = parse_entries(block)
    assert parsed is not None
    geometry = placed_by_itk(parsed, axes, "a")

    assert geometry.file_spacing_xyz == image.GetSpacing()
    assert geometry.origin_xyz == image.GetOrigin()
    assert geometry.direction == image.GetDirection()


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slope=st.floats(-9, 9, width=32) | st.sampled_from([1.0, np.nan]), intercept=st.floats(-99, 99, width=32)
)
def test_scaled_voxels_are_nibabels(
    tmp_path: Path, kind: str, order: Literal["<", ">"], slope: float, intercept: float
) -> None:
    header = NIFTI_1(endianness=order)
    header.set_data_dtype(np.dtype(kind))
    header.set_data_shape(SHAPE_XYZ)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = slope, intercept
    values = np.random.default_rng(3).integers(0, 127, SHAPE_XYZ).astype(np.dtype(kind).newbyteorder(order))
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes())

    voxels_zyx = read_image([path], "NibabelIO").voxels_czyx[0]

    assert np.array_equal(voxels_zyx, nib.load(path).get_fdata().astype(np.float32).T)


def nifti_2(path: Path) -> Path:
    image = nib.Nifti2Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([0.1, 0.2, 0.3, 1]))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_2_is_read_by_nibabels_readers(tmp_path: Path, ending: str) -> None:
    path = nifti_2(tmp_path / f"a{ending}")

    image = read_image([path], "NibabelIO")

    assert np.array_equal(image.voxels_czyx[0], nib.load(path).get_fdata().T)
    assert image.geometry.spacing == (0.3, 0.2, 0.1)
    assert choose_reader(described(ending), path) == "NibabelIO"


def test_nifti_2_under_itk_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r'a\.nii\.gz is NIfTI-2.*writer": "NibabelIO"'):
        read_image([nifti_2(tmp_path / "a.nii.gz")], "SimpleITKIO")


def test_long_label_maps_become_nifti_2(tmp_path: Path) -> None:
    labels_zyx = np.zeros((1, 1, 40_000), np.uint8)
    labels_zyx[0, 0, -1] = 3
    spacing_xyz = (0.5, 0.25, 2.0)
    geometry = Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=(1.0, 2.0, 3.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )

    write_labels(LabelMap(labels_zyx, geometry), tmp_path / "a.nii.gz", "NibabelIO")

    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nibabel.Nifti2Image)
    found = read_labels(tmp_path / "a.nii.gz", reader_for_file(tmp_path / "a.nii.gz"))
    assert np.array_equal(found.labels_zyx, labels_zyx)
    assert found.geometry == geometry


def test_labels_of_a_plane_cut_obliquely_can_be_read_by_itk(tmp_path: Path) -> None:
    direction = np.reshape(rotation_xyz((40, -20, 35)), (3, 3))
    rows = np.column_stack([direction, [1.0, 2.0, 3.0]])
    entries = {"sform_code": 1, "srow_x": rows[0], "srow_y": rows[1], "srow_z": rows[2]}
    path = tmp_path / "a.nii"
    path.write_bytes(header_block(entries, 2) + bytes(4 + 20))

    image = read_image([path], "SimpleITKIO")
    write_labels(LabelMap(np.ones((1, 5, 4), np.uint8), image.geometry), tmp_path / "l.nii", "SimpleITKIO")

    by_itk = sitk.ReadImage(str(path))
    sitk.WriteImage(by_itk, str(tmp_path / "rewritten.nii"))
    expected, found = read_header(tmp_path / "rewritten.nii"), read_header(tmp_path / "l.nii")
    assert found.geometry.direction == pytest.approx(expected.geometry.direction, abs=1e-6)
    assert found.geometry.file_spacing_xyz == expected.geometry.file_spacing_xyz
    assert sitk.ReadImage(str(tmp_path / "l.nii")).GetSize() == (4, 5)


def test_vectors_along_a_fifth_axis_are_channels(tmp_path: Path) -> None:
    voxels_xyz1c = np.arange(180, dtype=np.int16).reshape(3, 4, 5, 1, 3)
    nib.save(nib.Nifti1Image(voxels_xyz1c, np.eye(4)), tmp_path / "a.nii")

    image = read_image([tmp_path / "a.nii"], "NibabelIO")

    assert np.array_equal(image.voxels_czyx, voxels_xyz1c[:, :, :, 0].T)


def test_a_series_of_vectors_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2, 3), np.int16), np.eye(4)), tmp_path / "a.nii")

    with pytest.raises(ImageError, match="5 dimensions; save each channel as a volume"):
        read_header(tmp_path / "a.nii")


def test_a_header_is_read_without_its_voxels(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(header_block({"sform_code": 0, "qform_code": 0}, 3) + bytes(4))

    assert read_header(path, "SimpleITKIO").shape == SHAPE_XYZ[::-1]
    with pytest.raises(ImageError, match="ends after 0 of 120 bytes"):
        read_image([path], "SimpleITKIO")
