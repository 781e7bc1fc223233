"""How often 10,000 samples are changed and how far, beside the specification: `python -m tests.core.training.drawn`."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations, product
from math import log
from typing import Any

import numpy as np
from scipy.stats import binomtest, chisquare, kstest, norm

from core.domain.training import TrainingSettings
from core.training.augmentations import AUGMENTATIONS
from core.training.local import BumpParameters
from core.training.parameters import AugmentationParameters
from tests.plans import small_plan

DRAWS = 10_000
CHANNELS = 2
EDGE = 48
SEED = 5

Drawn = Sequence[AugmentationParameters]


@dataclass(frozen=True)
class Row:
    """One line of the table; `chance` is the probability of a worse agreement if all is as specified."""

    quantity: str
    specified: str
    count: int
    measured: str
    chance: float


def draw(name: str) -> Drawn:
    """Draw all samples of an augmentation, for a cube, all of whose axes may change places."""
    settings = TrainingSettings(augmentation=name)
    _, configuration = small_plan([1, 1, 1], entries={"patch_size": [EDGE] * 3})
    augmentation, rng = AUGMENTATIONS.get(name), np.random.default_rng(SEED)
    geometry = augmentation.geometry(configuration, settings)
    return [augmentation.draw(rng, geometry, CHANNELS, settings) for _ in range(DRAWS)]


def share(quantity: str, hits: Sequence[bool], probability: float) -> Row:
    """Compare a frequency with a probability."""
    test = binomtest(sum(hits), len(hits), probability)
    return Row(quantity, f"p {probability:g}", len(hits), f"{np.mean(hits):.4f}", float(test.pvalue))


def distributed(
    quantity: str, values: Sequence[float], words: str, distribution: Callable[[Any], Any]
) -> Row:
    """Compare values with a distribution, given as its cumulative function."""
    quartiles = "/".join(f"{value:.3g}" for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
    return Row(quantity, words, len(values), quartiles, float(kstest(values, distribution).pvalue))


def uniform(quantity: str, values: Sequence[float], low: float, high: float) -> Row:
    return distributed(
        quantity, values, f"U({low:g}, {high:g})", lambda v: np.clip((v - low) / (high - low), 0, 1)
    )


def either(quantity: str, values: Sequence[float], *bounds: tuple[float, float]) -> Row:
    """Compare values with one of two ranges by a fair coin, uniform within."""

    def cumulated(values: Any) -> Any:
        parts = [np.clip((values - low) / (high - low), 0, 1) for low, high in bounds]
        return sum(parts) / len(parts)

    words = " or ".join(f"U({low:g}, {high:g})" for low, high in bounds)
    return distributed(quantity, values, words, cumulated)


def equally(quantity: str, values: Sequence[Hashable], possible: Sequence[Hashable]) -> Row:
    """Compare how often each of some values comes with equal frequencies."""
    counts = Counter(values)
    strange = set(counts) - set(possible)
    frequencies = [counts[value] for value in possible]
    chance = 0.0 if strange else float(chisquare(frequencies).pvalue)
    shares = f"{min(frequencies) / len(values):.4f} to {max(frequencies) / len(values):.4f}"
    return Row(quantity, f"each of {len(possible)}: {1 / len(possible):.4f}", len(values), shares, chance)


def channels(values: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the entries of all channels of all samples that were selected."""
    return list(chain.from_iterable(values))


def kept(values: Sequence[Sequence[Any]]) -> list[Any]:
    return [value for value in channels(values) if value is not None]


def spatial_rows(drawn: Drawn, *, scales: tuple[float, float], rotation: float, axis: float) -> Iterator[Row]:
    """Rotation and scaling; a sample with neither keeps no record."""
    found = [one.spatial for one in drawn if one.spatial is not None]
    yield share("rotated or scaled", [one.spatial is not None for one in drawn], 1 - (1 - rotation) * 0.8)
    rotated = [any(one.angles) for one in found]
    turned = rotation * (1 - (1 - axis) ** 3)
    yield share("turned", rotated + [False] * (len(drawn) - len(found)), turned)
    is_scaled = [one.scale != 1 for one in found]
    yield share("scaled", is_scaled + [False] * (len(drawn) - len(found)), 0.2)
    angles = np.array([one.angles for one in found])
    for number in range(3):
        about = np.degrees(angles[:, number])
        if axis < 1:
            hits = [bool(angle) for angle in about] + [False] * (len(drawn) - len(found))
            yield share(f"turned about axis {number}", hits, rotation * axis)
        yield uniform(f"angle about axis {number}, degrees", about[about != 0].tolist(), -30, 30)
    factors = [np.atleast_1d(np.asarray(one.scale)) for one in found if one.scale != 1]
    for number in range(len(factors[0])):
        yield uniform(f"scale, axis {number}", [float(factor[number]) for factor in factors], *scales)


def common_rows(drawn: Drawn) -> Iterator[Row]:
    """What both augmentations draw alike."""
    yield share("noise", [bool(one.noise) for one in drawn], 0.1)
    yield uniform("noise deviation", [one.noise[0].deviation for one in drawn if one.noise], 0, 0.1)
    for axis in range(3):
        yield share(f"mirrored along axis {axis}", [axis in one.mirrored for one in drawn], 0.5)
    yield share("mirrored along all axes", [len(one.mirrored) == 3 for one in drawn], 0.125)
    yield share("inverted gamma", [bool(one.inverted_gamma) for one in drawn], 0.1)
    exponents = channels([one.inverted_gamma for one in drawn])
    yield either("inverted gamma exponent", exponents, (0.7, 1), (1, 1.5))


def default_rows(drawn: Drawn) -> Iterator[Row]:
    """Engine specification B 2.4."""
    yield from spatial_rows(drawn, scales=(0.7, 1.4), rotation=0.2, axis=1)
    yield from common_rows(drawn)
    yield share("blur", [bool(one.blur) for one in drawn], 0.2)
    yield share("blur of a channel", [one is not None for one in channels([d.blur for d in drawn])], 0.5)
    for axis in range(3):
        deviations = [value[axis] for value in kept([one.blur for one in drawn])]
        yield uniform(f"blur deviation, axis {axis}", deviations, 0.5, 1)
    yield share("low resolution", [bool(one.low_resolution) for one in drawn], 0.25)
    losses = channels([one.low_resolution for one in drawn])
    yield share("low resolution of a channel", [one is not None for one in losses], 0.5)
    yield uniform("low resolution zoom", [one[0] for one in losses if one is not None], 0.5, 1)
    for name, probability, low, high in (
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("gamma", 0.3, 0.7, 1.5),
    ):
        values = [getattr(one, name) for one in drawn]
        yield share(name, [bool(factors) for factors in values], probability)
        yield either(f"{name} factor", channels(values), (low, 1), (1, high))


def strong_rows(drawn: Drawn) -> Iterator[Row]:
    """Engine specification B 2.7."""
    yield from spatial_rows(drawn, scales=(0.7, 1.43), rotation=0.4, axis=0.5)
    yield from common_rows(drawn)
    yield from orientation_rows(drawn)
    for name, probability in (
        ("median", 0.1),
        ("blur", 0.1),
        ("shift", 0.1),
        ("contrast", 0.1),
        ("unbounded_contrast", 0.1),
        ("low_resolution", 0.15),
        ("blanks", 0.4),
        ("gradient", 0.3),
        ("local_gamma", 0.3),
        ("sharpening", 0.2),
    ):
        values = [getattr(one, name) for one in drawn]
        words = name.replace("_", " ")
        yield share(words, [bool(one) for one in values], probability)
        yield share(f"{words} of a channel", [one is not None for one in channels(values)], 0.5)
    yield equally("median edge", kept([one.median for one in drawn]), range(2, 8))
    yield uniform("blur deviation", [value[0] for value in kept([one.blur for one in drawn])], 0.3, 1.5)
    shifts = kept([one.shift for one in drawn])
    yield distributed("shift", shifts, "N(0, 0.5)", norm(0, 0.5).cdf)
    for name in ("contrast", "unbounded_contrast"):
        factors = kept([getattr(one, name) for one in drawn])
        yield either(f"{name.replace('_', ' ')} factor", factors, (0.5, 1), (1, 2))
    zooms = [value[0] for value in kept([one.low_resolution for one in drawn])]
    yield uniform("low resolution zoom", zooms, 0.25, 1)
    yield share("second inverted gamma", [bool(one.second_inverted_gamma) for one in drawn], 0.1)
    exponents = channels([one.second_inverted_gamma for one in drawn])
    yield either("second inverted gamma exponent", exponents, (0.7, 1), (1, 1.5))
    yield from local_rows(drawn)
    yield uniform("sharpening strength", kept([one.sharpening for one in drawn]), 0.1, 1)


def orientation_rows(drawn: Drawn) -> Iterator[Row]:
    """Quarter turns and exchanged axes."""
    turns = [one.quarter_turn for one in drawn]
    yield share("quarter turn", [turn is not None for turn in turns], 0.5)
    planes = [(turn.axes, turn.quarters) for turn in turns if turn is not None]
    yield equally("plane and quarters", planes, list(product([(0, 1), (0, 2), (1, 2)], range(4))))
    yield share("axes permuted", [bool(one.axis_order) for one in drawn], 0.5)
    orders = [one.axis_order for one in drawn if one.axis_order]
    yield equally("order of axes", orders, list(permutations(range(3))))


def local_rows(drawn: Drawn) -> Iterator[Row]:
    """Blank boxes and bumps."""
    blanks = kept([one.blanks for one in drawn])
    yield equally("blank boxes", [len(boxes) for boxes in blanks], range(1, 5))
    bounds = np.array([box for boxes in blanks for box in boxes])
    for axis in range(3):
        sizes = (bounds[:, axis, 1] - bounds[:, axis, 0]).tolist()
        yield equally(f"edge of a blank box, axis {axis}", sizes, range(EDGE // 10, EDGE // 3))
    ten = bounds[:, 0, 1] - bounds[:, 0, 0] == 10
    yield equally("place of a blank box of 10 voxels", bounds[ten, 0, 0].tolist(), range(EDGE - 9))
    gradients, gammas = kept([one.gradient for one in drawn]), kept([one.local_gamma for one in drawn])
    yield either("gradient strength", [one.strength for one in gradients], (-5, -1), (1, 5))
    yield either("local gamma exponent", [one.exponent for one in gammas], (0.01, 0.8), (1.5, 4))
    hills: list[BumpParameters] = [one.bump for one in (*gradients, *gammas)]
    for axis in range(3):
        centres = [hill.centres[axis] / EDGE for hill in hills]
        yield uniform(f"centre of a bump in edges, axis {axis}", centres, -0.5, 1.5)
        widths = [log(hill.widths[axis]) for hill in hills]
        yield uniform(f"logarithm of its width, axis {axis}", widths, log(EDGE // 6), log(EDGE))


TABLES: Mapping[str, Callable[[Drawn], Iterator[Row]]] = {"default": default_rows, "strong": strong_rows}


def table(name: str) -> list[Row]:
    """Return everything that can be compared of an augmentation."""
    return list(TABLES[name](draw(name)))


def lines(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Write a table for a terminal; of distributions it shows the quartiles."""
    yield f"{name}: {DRAWS} samples of {CHANNELS} channels, patch {EDGE}³"
    yield f"{'':38} {'specified':>26} {'n':>6} {'measured':>38} {'chance':>8}"
    for row in rows:
        yield f"{row.quantity:38} {row.specified:>26} {row.count:6} {row.measured:>38} {row.chance:8.4f}"


if __name__ == "__main__":
    for augmentation in TABLES:
        print("\n".join(lines(augmentation, table(augmentation))), end="\n\n")  # noqa: T201 - the table
