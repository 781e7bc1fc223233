"""Image formats told by name and first bytes."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.formats import ENDINGS, MEDIA_TYPES, STANDARD_ENDING, file_ending
from core.errors import ImageError
from tests.app import playing

NIFTI = playing.NIFTI[0]
NIFTI_2 = b"\x1c\x02\x00\x00n+2\x00" + bytes(600)
BEGINNINGS = {
    ".nii": NIFTI,
    ".nii.gz": gzip.compress(NIFTI),
    ".nrrd": b"NRRD0005\ntype: short",
    ".mha": b"ObjectType = Image\nNDims = 3",
    ".gipl": b"\x00\x05" + bytes(250) + b"\xef\xff\xe9\xb0" + bytes(60),
    ".png": b"\x89PNG\r\n\x1a\n" + bytes(20),
    ".bmp": b"BM" + bytes(60),
    ".tif": b"II*\x00" + bytes(20),
    ".tiff": b"MM\x00*" + bytes(20),
}


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_name_and_content_agree(ending: str) -> None:
    assert file_ending(f"/home/x/Patient A{ending.upper()}", BEGINNINGS[ending]) == ending


@pytest.mark.parametrize("ending", BEGINNINGS)
@pytest.mark.parametrize("name", [None, "", "image", "blob.bin"])
def test_without_a_telling_name_the_content_decides(ending: str, name: str | None) -> None:
    assert file_ending(name, BEGINNINGS[ending]) in (ending, ".tif")


def test_nifti_2_is_nifti() -> None:
    assert file_ending(None, NIFTI_2) == ".nii"
    assert file_ending(None, gzip.compress(NIFTI_2)) == ".nii.gz"


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_a_web_page_is_no_image_whatever_its_name(ending: str) -> None:
    with pytest.raises(ImageError, match="not of that format"):
        file_ending(f"x{ending}", b"<!DOCTYPE html><svg onload=alert(1)>")


def test_every_ending_has_a_content_and_a_media_type() -> None:
    assert set(ENDINGS) == set(MEDIA_TYPES)
    assert set(ENDINGS.values()) == set(STANDARD_ENDING)


@given(head=st.binary(max_size=500), name=st.none() | st.text(max_size=20))
def test_any_bytes_get_an_answer(head: bytes, name: str | None) -> None:
    try:
        ending = file_ending(name, head)
    except ImageError:
        return

    assert ending in ENDINGS
