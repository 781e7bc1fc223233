import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.labels import LabelSet, label_set
from core.errors import ImageError
from core.inference.probability_files import average_case, opened_heads
from core.io.image import FloatArray

LABELS = label_set({"background": 0, "a": 1, "b": 2}, None)
REGIONS = label_set({"background": 0, "whole": (1, 2), "core": (2,)}, (1, 2))


def _save(path: Path, probabilities: FloatArray) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, probabilities=probabilities)
    return path


def _drawn(seed: int, heads: int, count: int) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [rng.random((heads, 3, 4, 5), dtype=np.float32).round(1) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_label_with_the_highest_mean_is_taken(tmp_path: Path, count: int) -> None:
    models = _drawn(count, 3, count)
    files = [_save(tmp_path / f"{number}.npz", model) for number, model in enumerate(models)]

    found = average_case(files, LABELS)

    assert found.tolist() == np.argmax(np.mean(models, axis=0, dtype=np.float32), axis=0).tolist()
    assert found.dtype == np.uint8


@given(seed=st.integers(0, 1000))
def test_regions_are_painted_one_over_the_other(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("regions")
    models = _drawn(seed, 2, 2)
    files = [_save(folder / f"{number}.npz", model) for number, model in enumerate(models)]

    found = average_case(files, REGIONS)

    whole, core = (models[0] + models[1]) / 2 > 0.5
    assert found.tolist() == np.where(core, 2, np.where(whole, 1, 0)).tolist()


def test_many_labels_need_16_bits(tmp_path: Path) -> None:
    labels = label_set({"background": 0, **{f"l{value}": value for value in range(1, 300)}}, None)
    probabilities = np.zeros((300, 1, 1, 2), np.float32)
    probabilities[299, 0, 0, 0] = probabilities[7, 0, 0, 1] = 1

    found = average_case([_save(tmp_path / "a.npz", probabilities)], labels)

    assert found.tolist() == [[[299, 7]]]
    assert found.dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_mean_can_be_kept(tmp_path: Path, dtype: type[np.floating]) -> None:
    models = _drawn(0, 3, 2)
    files = [_save(tmp_path / f"{number}.npz", model.astype(dtype)) for number, model in enumerate(models)]

    average_case(files, LABELS, tmp_path / "mean.npz")

    with np.load(tmp_path / "mean.npz") as kept:
        assert list(kept) == ["probabilities"]
        assert kept["probabilities"].dtype == np.float32
        assert np.allclose(kept["probabilities"], (models[0] + models[1]) / 2, atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "1.npz", "mean.npz"]


def test_heads_are_read_one_after_the_other(tmp_path: Path) -> None:
    (probabilities,) = _drawn(0, 3, 1)

    with opened_heads(_save(tmp_path / "a.npz", probabilities)) as heads:
        assert (heads.shape, heads.count) == ((3, 4, 5), 3)
        assert [head.tolist() for head in heads.each] == probabilities.tolist()


@pytest.mark.parametrize(
    ("probabilities", "labels", "sentence"),
    [
        (np.zeros((4, 3, 4, 5), np.float32), LABELS, r"b/c\.npz has probabilities of 4 classes.*background, a, b"),
        (np.zeros((3, 3, 4, 6), np.float32), LABELS, r"b/c\.npz has .* 3 x 4 x 6 voxels, a/c\.npz of 3 x 4 x 5"),
        (np.full((3, 3, 4, 5), np.nan, np.float32), LABELS, r"b/c\.npz .* numbers from 0 to 1"),
        (np.full((3, 3, 4, 5), -5, np.float32), LABELS, r"b/c\.npz .* numbers from 0 to 1"),
        (np.zeros((3, 3, 4, 5), np.int32), LABELS, r"b/c\.npz .*int32"),
        (np.zeros((3, 4, 5), np.float32), LABELS, r"b/c\.npz .*\(3, 4, 5\)"),
        (np.zeros((5, 4, 3, 3), np.float32).T, LABELS, r"b/c\.npz .*row by row"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(
    tmp_path: Path, probabilities: FloatArray, labels: LabelSet, sentence: str
) -> None:
    files = [
        _save(tmp_path / "a/c.npz", np.zeros((3, 3, 4, 5), np.float32)),
        _save(tmp_path / "b/c.npz", probabilities),
    ]

    with pytest.raises(ImageError, match=sentence):
        average_case(files, labels, tmp_path / "mean.npz")
    assert not (tmp_path / "mean.npz").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = _save(tmp_path / "whole.npz", _drawn(0, 3, 1)[0])
    (tmp_path / "none.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "other.npz", softmax=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive, np.load(whole) as arrays:
        with archive.open("probabilities.npy", "w") as stream:
            np.lib.format.write_array(stream, arrays["probabilities"])
        archive.writestr("x", "y")
    content = (tmp_path / "short.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(content.replace(b"(3, 3, 4, 5)", b"(9, 3, 4, 5)"))

    for name, sentence in (
        ("none", "cannot be read"),
        ("other", "no array `probabilities`"),
        ("short", "cannot be read as probabilities"),
        ("lost", "does not exist"),
    ):
        with pytest.raises(ImageError, match=rf"/{name}\.npz {sentence}|/{name}\.npz holds {sentence}"):
            average_case([whole, tmp_path / f"{name}.npz"], LABELS)


def test_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", probabilities=np.array([[[[print]]]], dtype=object))

    with pytest.raises(ImageError, match="object"):
        average_case([tmp_path / "a.npz"], LABELS)
