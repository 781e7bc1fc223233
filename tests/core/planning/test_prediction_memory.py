"""What segmenting an image will cost."""

import json
from math import prod
from pathlib import Path

import pytest

from core.domain.plan import ArchitectureArguments
from core.planning.prediction_memory import parameters, prediction_memory
from tests.planned import ACDC, AERIAL, HIPPOCAMPUS, LIVER, plan

TOPOLOGIES = sorted(
    (Path(__file__).resolve().parents[3] / "../shared/goldens/losses_goldens/topology").glob("*.json")
)


@pytest.mark.parametrize(
    ("preset", "name", "count"),
    [("default", "3d_fullres", 5_603_177), ("resenc_m", "3d_fullres", 25_895_593)],
)
def test_the_weights_of_networks_are_counted(preset: str, name: str, count: int) -> None:
    network = plan(HIPPOCAMPUS, preset=preset).configuration(name).architecture

    assert parameters(network.unet, channels=1, heads=3) == count


@pytest.mark.parity
@pytest.mark.skipif(not TOPOLOGIES, reason="the reference's recorded networks (../shared) are absent")
def test_the_weights_of_recorded_networks_are_counted() -> None:
    for path in TOPOLOGIES:
        recorded = json.loads(path.read_text())
        arguments = ArchitectureArguments.model_validate(recorded["architecture"]["arch_kwargs"])
        counted = parameters(arguments, recorded["input_channels"], recorded["output_channels"])
        assert counted == recorded["n_parameters"], path.stem


def test_the_sum_of_logits_grows_with_classes_and_the_slab_that_tiles_touch() -> None:
    made = plan(LIVER)

    few = prediction_memory(made, "3d_fullres", 3, (432, 512, 512))
    many = prediction_memory(made, "3d_fullres", 100, (432, 512, 512))

    edges = made.configuration("3d_fullres").patch_size
    slab = min(edges[0] * 512 * 512, 432 * edges[1] * 512)
    assert many.cpu_bytes - few.cpu_bytes == pytest.approx(97 * 4 * (slab + 3 * prod(edges)), rel=0.05)
    assert "the sum of logits" in many.reason
    assert few.grid == (432, 512, 512)
    assert few.tiles == 6 * 7 * 7


def test_a_coarser_image_is_brought_to_the_networks_grid() -> None:
    made = plan(LIVER)

    coarse = prediction_memory(made, "3d_fullres", 3, (216, 256, 256), (2.0, 1.535, 1.535))

    assert coarse.grid == prediction_memory(made, "3d_fullres", 3, (432, 512, 512)).grid


def test_small_images_are_padded_to_the_patch_and_slices_counted() -> None:
    made = plan(ACDC)

    volume = prediction_memory(made, "3d_fullres", 4, (9, 200, 200), (10.0, 1.5625, 1.5625))
    slices = prediction_memory(made, "2d", 4, (9, 256, 224), (10.0, 1.5625, 1.5625))

    assert (volume.grid, volume.tiles) == ((20, 256, 224), 1)
    assert (slices.grid, slices.tiles) == ((9, 256, 224), 9)


def test_a_later_stage_of_a_cascade_sees_the_labels_of_the_one_before() -> None:
    made = plan(LIVER)
    entries = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    cascade = made.model_copy(update={"configurations": {**made.configurations, "later": entries}})

    alone = prediction_memory(cascade, "3d_fullres", 100, (432, 512, 512))
    later = prediction_memory(cascade, "later", 100, (432, 512, 512))

    assert later.cpu_bytes > alone.cpu_bytes + 2 * 4 * 432 * 512 * 512


def test_pictures_have_one_slice() -> None:
    cost = prediction_memory(plan(AERIAL), "2d", 2, (1, 1500, 1500))

    assert cost.grid == (1, 1500, 1500)
    assert cost.gpu_bytes < cost.cpu_bytes


def test_the_largest_part_is_named_truly_for_a_small_image_too() -> None:
    small = prediction_memory(plan(HIPPOCAMPUS), "3d_fullres", 3, (36, 50, 35))

    assert "the process itself: 472 MB of" in small.reason
