"""Whatever happens to a file or to dataset.json, verification ends with findings, never with a traceback."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.domain.dataset import ENTRIES, DatasetDescription
from core.errors import DatasetError
from core.memory import Memory
from core.verification.case_checks import Rules, check_case
from tests.factories import Recipe, make_dataset, write_array
from tests.odd_inputs.table import verified

FORMATS = {
    ".nii": ("NibabelIO", (4, 5, 6)),
    ".nii.gz": ("SimpleITKIO", (4, 5, 6)),
    ".nrrd": ("SimpleITKIO", (4, 5, 6)),
    ".mha": ("SimpleITKIO", (4, 5, 6)),
    ".gipl": ("SimpleITKIO", (4, 5, 6)),
    ".tif": ("Tiff3DIO", (4, 5, 6)),
    ".png": ("NaturalImage2DIO", (1, 9, 8)),
    ".bmp": ("NaturalImage2DIO", (1, 9, 8)),
}
HEADER_BYTES = 360
"""Where most changes are made; voxels may be anything."""

CHANGES = 120


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Change up to three bytes, most of them in the header, and cut some files."""
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        end = min(len(damaged), HEADER_BYTES) if rng.random() < 0.8 else len(damaged)
        value = rng.integers(0, 256) if rng.random() < 0.7 else rng.choice([0, 127, 128, 255])
        damaged[int(rng.integers(0, end))] = int(value)
    left = int(rng.integers(0, len(damaged))) if rng.random() < 0.1 else len(damaged)
    return bytes(damaged[:left])


@pytest.mark.parametrize("ending", FORMATS)
def test_changed_bytes_end_in_findings(tmp_path: Path, ending: str) -> None:
    reader, shape = FORMATS[ending]
    voxels_zyx = (np.arange(np.prod(shape)).reshape(shape) % 7).astype(np.uint8)
    image = write_array(voxels_zyx, tmp_path / f"a_0000{ending}", Recipe(shape=shape))
    label = write_array(voxels_zyx % 3, tmp_path / f"a{ending}", Recipe(shape=shape))
    content = image.read_bytes()
    is_compressed = ending == ".nii.gz"
    plain = gzip.decompress(content) if is_compressed else content
    rules = Rules(reader, ("channel",), frozenset({0, 1, 2}))
    rng = np.random.default_rng(7)
    with_problems = 0

    for _ in range(CHANGES):
        damaged = changed(plain, rng)
        image.write_bytes(gzip.compress(damaged, 1) if is_compressed else damaged)
        found = check_case("a", [image], label, rules, Memory(2**30))
        assert all("a_0000" in one.message for one in found.problems)
        with_problems += bool(found.problems)

    assert with_problems > CHANGES // 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LABELS = st.dictionaries(
    st.sampled_from(["background", "ignore", "Ignore", "a", "b", "0", ""]),
    st.integers(-1, 5) | st.lists(st.integers(-1, 5), max_size=3) | JSON,
    max_size=5,
)
PATHS = st.sampled_from(
    ["imagesTr/phantom_000_0000.nii.gz", "labelsTr/phantom_000.nii.gz", "..", "$HOME/x", "\0", ""]
)
LISTED = st.dictionaries(
    st.sampled_from(["phantom_000", "b", "../c", ""]),
    st.fixed_dictionaries({"images": st.lists(PATHS, max_size=2), "label": PATHS}) | JSON,
    max_size=3,
)
CHANGED_ENTRIES = st.dictionaries(
    st.sampled_from([*ENTRIES, "modality", "other"]), JSON, max_size=4
) | st.fixed_dictionaries(
    {}, optional={"labels": LABELS, "dataset": LISTED, "regions_class_order": JSON, "numTraining": JSON}
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("json"), Recipe(cases=1, shape=(6, 8, 7)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGED_ENTRIES)
def test_any_entry_of_dataset_json_ends_in_findings(raw: Path, changes: dict[str, Any]) -> None:
    description = raw / "dataset.json"
    sound = description.read_text()
    text = json.dumps({**json.loads(sound), **changes})
    try:
        description.write_text(text)
        found = verified(raw)
    finally:
        description.write_text(sound)

    assert all(one.message for one in (*found.problems, *found.notes))
    found.model_dump_json()
    assert (found.description is not None) == is_parsed(text)


def is_parsed(text: str) -> bool:
    """Return whether the strict way of reading dataset.json takes it."""
    try:
        DatasetDescription.parse(text)
    except DatasetError:
        return False
    return True
