"""Folders, zips, ensembles and arrays: small untrained networks, real files."""

import json
import shutil
from pathlib import Path

import cc3d
import numpy as np
import pytest
import torch
from scipy import special

from core import pipeline
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import SilentObserver
from core.errors import ArchiveError, DatasetError, ImageError, ModelError
from core.inference.ensemble import LoadedEnsemble
from core.inference.properties import geometry_of_properties
from core.io.image import Geometry, LabelMap
from core.io.probabilities import write_map
from core.io.readers import read_header, read_image, read_labels
from core.pipeline import FolderOptions
from tests.core.inference.conftest import PLANS, write_model

OPTIONS = PredictionOptions(device="cpu", precision="fp32")
QUIET = SilentObserver()
GEOMETRY = Geometry(
    spacing=(2.0, 1.5, 1.0),
    file_spacing_xyz=(1.0, 1.5, 2.0),
    origin_xyz=(-3, 4.5, 7),
    direction=(0, 1, 0, -1, 0, 0, 0, 0, 1),
)
CASES = ("a", "b", "c")


@pytest.fixture
def plan() -> Plan:
    return Plan.model_validate(PLANS)


@pytest.fixture
def model(tmp_path: Path, plan: Plan) -> Path:
    return write_model(tmp_path / "model", plan, "3d_fullres")


@pytest.fixture
def ensemble(tmp_path: Path, plan: Plan) -> Path:
    folder = tmp_path / "ensemble"
    write_model(folder / "members/full", plan, "3d_fullres")
    write_model(folder / "members/low", plan, "3d_lowres", seed=4)
    (folder / "ensemble.json").write_text(json.dumps({"version": 1, "members": ["full", "low"]}))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for case in CASES:
        voxels_czyx = np.zeros((2, 6, 11, 14), np.float32)
        voxels_czyx[:, 1:, :9, 2:] = rng.normal(100, 20, (2, 5, 9, 12))
        for channel, voxels_zyx in enumerate(voxels_czyx):
            write_map(voxels_zyx, GEOMETRY, folder / f"{case}_{channel:04d}.nii.gz")
    return folder


def labels_in(folder: Path, case: str = "a") -> LabelMap:
    return read_labels(folder / f"{case}.nii.gz", "SimpleITKIO")


def probabilities_in(folder: Path, case: str = "a") -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.load(folder / f"{case}.npz") as archive:
        assert list(archive) == ["probabilities"]
        return np.asarray(archive["probabilities"])


def test_a_folder_is_segmented_once_and_in_parts(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    second = pipeline.predict_folder(model, images, out, OPTIONS, QUIET, which=FolderOptions(part=(2, 2)))
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["b.nii.gz"]
    (out / "b.nii.gz").write_bytes(b"as it was")
    rest = pipeline.predict_folder(model, images, out, OPTIONS, QUIET)

    assert (second.segmented, second.present) == (1, 0)
    assert (rest.segmented, rest.present) == (2, 1)
    assert (out / "b.nii.gz").read_bytes() == b"as it was"
    assert (out / "dataset.json").is_file()
    assert (out / "plans.json").is_file()
    again = pipeline.predict_folder(model, images, out, OPTIONS, QUIET, which=FolderOptions(overwrite=True))
    assert (again.segmented, again.present) == (3, 0)
    assert labels_in(out, "b").geometry == GEOMETRY
    with pytest.raises(DatasetError, match="no part 3/2"):
        pipeline.predict_folder(model, images, out, OPTIONS, QUIET, which=FolderOptions(part=(3, 2)))


def test_a_damaged_image_is_named_at_the_end_and_keeps_no_other_from_its_segmentation(
    model: Path, images: Path, tmp_path: Path
) -> None:
    (images / "b_0001.nii.gz").write_bytes(b"no image")

    with pytest.raises(ImageError, match=r"1 of 3 cases could not be segmented: b: b_0001\.nii\.gz"):
        pipeline.predict_folder(model, images, tmp_path / "out", OPTIONS, QUIET)

    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]


def test_probabilities_and_uncertainty_lie_beside_the_segmentation(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    which = FolderOptions(probabilities=True, uncertainty=True)

    pipeline.predict_folder(model, images, plain, OPTIONS, QUIET)
    pipeline.predict_folder(model, images, out, OPTIONS, QUIET, which=which)

    found_kzyx, labels_zyx = probabilities_in(out), labels_in(plain).labels_zyx
    assert found_kzyx.dtype == np.float32
    assert found_kzyx.shape == (2, 6, 11, 14)
    assert np.abs(found_kzyx.sum(0) - 1).max() < 1e-5
    assert found_kzyx[:, 0, 0, 0].tolist() == [1, 0]
    assert np.array_equal(found_kzyx.argmax(0), labels_zyx)
    assert np.array_equal(labels_in(out).labels_zyx, labels_zyx)
    assert geometry_of_properties(out / "a.pkl") == GEOMETRY
    path = out / "uncertainty" / "a_uncertainty.nii.gz"
    unsure = read_image([path], "SimpleITKIO")
    assert read_header(path).stored_type == np.float32
    assert unsure.geometry == GEOMETRY
    assert unsure.voxels_czyx.min() == 0
    assert 0 < unsure.voxels_czyx.max() <= 1 + 1e-6
    assert not unsure.voxels_czyx[0, 0].any()
    assert [path.name for path in sorted(out.iterdir()) if path.name.startswith((".", "a"))] == [
        "a.nii.gz",
        "a.npz",
        "a.pkl",
    ]


def test_an_ensemble_averages_what_its_members_say(ensemble: Path, images: Path, tmp_path: Path) -> None:
    which = FolderOptions(probabilities=True)

    pipeline.predict_folder(ensemble, images, tmp_path / "both", OPTIONS, QUIET, which=which)
    for member in ("full", "low"):
        folder = ensemble / "members" / member
        pipeline.predict_folder(folder, images, tmp_path / member, OPTIONS, QUIET, which=which)

    loaded = pipeline.load(ensemble, OPTIONS)
    target = pipeline.PredictionFiles(tmp_path / "again.nii.gz")
    done = pipeline.predict_files(loaded, sorted(images.glob("a_*")), target, QUIET, OPTIONS)

    assert isinstance(loaded, LoadedEnsemble)
    assert [member["configuration"] for member in done.provenance["members"]] == ["3d_fullres", "3d_lowres"]
    mean_kzyx = (probabilities_in(tmp_path / "full") + probabilities_in(tmp_path / "low")) / 2
    assert np.abs(probabilities_in(tmp_path / "both") - mean_kzyx).max() <= 1e-6
    assert (labels_in(tmp_path / "both").labels_zyx == mean_kzyx.argmax(0)).mean() > 0.999
    assert (probabilities_in(tmp_path / "full") != probabilities_in(tmp_path / "low")).any()


def test_postprocessing_is_applied_unless_it_is_not_wanted(plan: Plan, images: Path, tmp_path: Path) -> None:
    ragged = write_model(tmp_path / "ragged", plan, "3d_fullres", seed=2)
    (ragged / "postprocessing.json").write_text(json.dumps({"version": 1, "keep_largest": [[1]]}))
    plain = OPTIONS.model_copy(update={"postprocessing": False})
    loaded, channels = pipeline.load(ragged, OPTIONS), sorted(images.glob("a_*"))

    cleaned, left = (
        pipeline.predict_files(loaded, channels, pipeline.PredictionFiles(tmp_path / name), QUIET, options)
        for name, options in (("cleaned.nii.gz", OPTIONS), ("left.nii.gz", plain))
    )

    assert cleaned.provenance["postprocessed"]
    assert not left.provenance["postprocessed"]
    parts_zyx = cc3d.connected_components(labels_in(tmp_path, "left").labels_zyx > 0)
    counts = np.bincount(parts_zyx.ravel())[1:]
    assert len(counts) > 1
    assert labels_in(tmp_path, "cleaned").labels_zyx.sum() == counts.max()


def test_a_zip_or_a_folder_of_several_models_is_opened_by_configuration(
    model: Path, ensemble: Path, images: Path, tmp_path: Path
) -> None:
    several = tmp_path / "several"
    shutil.copytree(model, several / "3d_fullres")
    shutil.copytree(ensemble / "members/low", several / "3d_lowres")
    archive = Path(shutil.make_archive(str(tmp_path / "several"), "zip", several))

    for place, wanted in (
        (archive, "3d_lowres"),
        (several, "3d_lowres"),
        (ensemble, "3d_lowres"),
        (model, None),
    ):
        with pipeline.opened_model(place, QUIET, wanted) as folder:
            loaded = pipeline.load(folder, OPTIONS)
        assert loaded.configuration_name == (wanted or "3d_fullres")
    with pytest.raises(
        ModelError, match="holds 2 models; name the configuration of one: 3d_fullres, 3d_lowres"
    ):
        pipeline.opened_model(archive, QUIET).__enter__()
    with pytest.raises(ModelError, match="holds no models of configuration 2d; it has 3d_fullres, 3d_lowres"):
        pipeline.opened_model(several, QUIET, "2d").__enter__()
    with pytest.raises(ModelError, match="holds no model"):
        pipeline.opened_model(images, QUIET).__enter__()
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ArchiveError):
        pipeline.opened_model(archive, QUIET).__enter__()


def test_arrays_are_segmented_as_files_are(ensemble: Path, images: Path, tmp_path: Path) -> None:
    which = FolderOptions(probabilities=True, uncertainty=True)
    pipeline.predict_folder(ensemble, images, tmp_path / "out", OPTIONS, QUIET, which=which)
    image = read_image(sorted(images.glob("a_*")), "SimpleITKIO")
    loaded = pipeline.load(ensemble, OPTIONS)

    found = pipeline.predict_arrays(
        loaded, image.voxels_czyx.astype(np.float64), GEOMETRY.spacing, probabilities=True, uncertainty=True
    )

    assert np.array_equal(found.labels_zyx, labels_in(tmp_path / "out").labels_zyx)
    assert found.probabilities_kzyx is not None
    assert np.array_equal(found.probabilities_kzyx, probabilities_in(tmp_path / "out"))
    unsure = read_image([tmp_path / "out/uncertainty/a_uncertainty.nii.gz"], "SimpleITKIO")
    assert np.array_equal(np.asarray(found.uncertainty_zyx), unsure.voxels_czyx[0])
    assert pipeline.predict_arrays(loaded, image.voxels_czyx, (1, 1, 1)).probabilities_kzyx is None
    with pytest.raises(ImageError, match=r"an array of numbers \(channels, z, y, x\)"):
        pipeline.predict_arrays(loaded, image.voxels_czyx[0], (1, 1, 1))
    with pytest.raises(ImageError, match="three positive numbers"):
        pipeline.predict_arrays(loaded, image.voxels_czyx, (1, 1, 0))


def test_uncertainty_averages_every_mirroring_and_fold_before_the_entropy_is_taken(
    model: Path, images: Path
) -> None:
    image = read_image(sorted(images.glob("a_*")), "SimpleITKIO")
    loaded = pipeline.load(model, OPTIONS)
    whole = image.voxels_czyx[:, 1:, :8, 2:10].repeat(2, axis=1)[:, :8]  # one tile, nothing resampled
    normalized = (whole - whole.mean((1, 2, 3), keepdims=True)) / whole.std((1, 2, 3), keepdims=True)

    found = pipeline.predict_arrays(loaded, whole, (1, 1, 1), options=OPTIONS, uncertainty=True)

    tile = torch.from_numpy(normalized.transpose(0, 2, 1, 3).copy())[None]  # the plan's axis order
    with torch.inference_mode():
        chances = [
            network(tile.flip(axes)).flip(axes).softmax(1)[0]
            for network in loaded.networks.values()  # type: ignore[union-attr]
            for axes in ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4))
        ]
    mean_kzyx = torch.stack(chances).mean(0).numpy().transpose(0, 2, 1, 3)
    expected_zyx = special.entr(mean_kzyx).sum(0) / np.log(2)
    assert found.uncertainty_zyx is not None
    assert np.abs(found.uncertainty_zyx - expected_zyx).max() < 1e-4
