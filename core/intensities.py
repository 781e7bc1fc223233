"""Intensities drawn from the foreground, each with how often it came, and what can be said of all draws together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.domain.fingerprint import IntensityProperties
from core.io.image import FloatArray

SAMPLING_SEED: Final = 1234
"""Of the stream that every case starts anew; Engine specification A 3.1."""

PORTION_WORDS: Final = 2**20
"""Numbers of the stream that are made at once."""

KEPT_PORTIONS: Final = 16
"""First portions of the stream that are kept for the next case; 64 MiB at most."""

DEVIATIONS: Final = 3
"""Of the number of words that give so many draws; with so many fewer, hardly ever are there too many."""

FEW_DRAWS: Final = 4096
"""Not worth an estimate of how many words they take."""

PERCENTILES: Final = (0.5, 99.5)
"""Bounds to which CT intensities are clipped; Engine specification A 3.2."""

SIGN_BIT: Final = np.uint32(2**31)
"""Of a 32-bit float, the type of intensities."""

HALF_BITS: Final = 16
"""Keys of 32 bits are sorted by their upper half, then by their lower one."""

Counts = npt.NDArray[np.integer]
Words = npt.NDArray[np.uint32]
StreamState = dict[str, Any] | tuple[str, npt.NDArray[np.uint32], int, int, float]


@dataclass(frozen=True, slots=True)
class Samples:
    """Intensities drawn from one channel of one case, in no particular order."""

    values: FloatArray
    counts: Counts
    """How often each value was drawn, in as few bytes as that needs; a value may be listed more than once."""

    @property
    def count(self) -> int:
        """How many draws there were."""
        return int(self.counts.sum(dtype=np.int64))


class _Stream:
    """The words of the legacy generator in order; the first ones are the same for every case, and kept."""

    _first: dict[int, tuple[Words, StreamState]] = {}  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        self._number = -1
        self._words: Words = np.empty(0, np.uint32)
        self._state: StreamState | None = None

    def upcoming(self, count: int) -> Words:
        """Return the next words, some at least, `count` at most."""
        if not len(self._words):
            self._number += 1
            self._words, self._state = self._first.get(self._number) or self._made()
        return self._words[:count]

    def skip(self, count: int) -> None:
        """Go on behind so many words."""
        self._words = self._words[count:]

    def _made(self) -> tuple[Words, StreamState]:
        """Make a portion, and keep it if it is one of the first."""
        generator = np.random.RandomState(SAMPLING_SEED)
        if self._state is not None:
            generator.set_state(self._state)
        words = generator.randint(0, 2**32, PORTION_WORDS, dtype=np.uint32)
        made = (words, generator.get_state())
        if self._number < KEPT_PORTIONS:
            self._first[self._number] = made
        return made


def draw_samples(channels: Sequence[FloatArray], draws: int) -> tuple[Samples, ...]:
    """Draw intensities with replacement from each channel's foreground, one stream for all channels.

    Args:
        channels: Foreground intensities in C order, the same voxels for each channel.
        draws: How many to draw per channel; none where there is no foreground.

    Source:
        Engine specification A 3.1: the legacy Mersenne Twister is part of the method. A draw of fewer than n
        takes words of the stream, cut to as many bits as n - 1 has, until one of them is below n.
    """
    stream = _Stream()
    return tuple(_draw(channel, draws, stream) for channel in channels)


def _draw(values: FloatArray, draws: int, stream: _Stream) -> Samples:
    """Draw from one channel; where there are more voxels than draws, the draws are listed, else counted."""
    count = len(values)
    if not count or not draws:
        return Samples(np.empty(0, np.float32), np.empty(0, np.uint8))
    if count == 1:
        return Samples(
            values.copy(), np.array([draws])
        )  # Where there is nothing to choose, no word is taken.
    if count > draws:
        return Samples(values[np.concatenate(list(_listed(count, draws, stream)))], np.ones(draws, np.uint8))
    counts = _counted(count, draws, stream)
    came = np.flatnonzero(counts)
    return Samples(values[came], counts[came].astype(np.min_scalar_type(counts.max())))


def _counted(count: int, draws: int, stream: _Stream) -> Counts:
    """Count how often each of `count` voxels is drawn."""
    mask = _mask(count)
    counts = np.zeros(int(mask) + 1, np.int64)
    missing = draws
    while missing:
        words = stream.upcoming(_enough_words(missing, count, mask)) & mask
        came = np.bincount(words, minlength=len(counts))
        accepted = int(came[:count].sum())
        if accepted > missing:
            words = words[: np.flatnonzero(words < count)[missing - 1] + 1]
            came, accepted = np.bincount(words, minlength=len(counts)), missing
        counts += came
        missing -= accepted
        stream.skip(len(words))
    return counts[:count]


def _listed(count: int, draws: int, stream: _Stream) -> Iterator[Words]:
    """List which of `count` voxels are drawn."""
    mask = _mask(count)
    missing = draws
    while missing:
        words = stream.upcoming(_enough_words(missing, count, mask)) & mask
        accepted = np.flatnonzero(words < count)[:missing]
        is_last = len(accepted) == missing
        missing -= len(accepted)
        yield words[accepted]
        stream.skip(int(accepted[-1]) + 1 if is_last else len(words))


def _mask(count: int) -> np.uint32:
    """Return the bits that the highest of `count` numbers has."""
    return np.uint32((1 << (count - 1).bit_length()) - 1)


def _enough_words(draws: int, count: int, mask: np.uint32) -> int:
    """Return how many words to take for so many draws: rather a few less than too many."""
    expected = draws * (int(mask) + 1) / count
    return ceil(2 * expected) if draws <= FEW_DRAWS else floor(expected - DEVIATIONS * expected**0.5)


def intensity_properties(samples: Sequence[Samples]) -> IntensityProperties:
    """Describe the intensities of one channel over all cases.

    Equal to the statistics of all draws put in a row.

    Source:
        Engine specification A 3.2.
    """
    count = sum(case.count for case in samples)
    mean = _sum(samples, lambda values: values) / count
    variance = _sum(samples, lambda values: (values - mean) ** 2) / count
    low, median, high = percentiles(samples, (PERCENTILES[0], 50, PERCENTILES[1]))
    return IntensityProperties(
        max=max(float(case.values.max()) for case in samples if len(case.values)),
        mean=mean,
        median=median,
        min=min(float(case.values.min()) for case in samples if len(case.values)),
        percentile_00_5=low,
        percentile_99_5=high,
        std=variance**0.5,
    )


def _sum(
    samples: Sequence[Samples], function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
) -> float:
    """Sum a function of all draws, in 64 bits."""
    return sum(
        float(case.counts.astype(np.float64) @ function(case.values.astype(np.float64))) for case in samples
    )


def percentiles(samples: Sequence[Samples], shares: Sequence[float]) -> list[float]:
    """Interpolate linearly between the two order statistics around each percentile."""
    last = sum(case.count for case in samples) - 1
    positions = [share / 100 * last for share in shares]
    found = values_at_ranks(samples, [rank for at in positions for rank in (floor(at), ceil(at))])
    return [
        below + (above - below) * (at - floor(at))
        for at, below, above in zip(positions, found[::2], found[1::2], strict=True)
    ]


def values_at_ranks(samples: Sequence[Samples], ranks: Sequence[int]) -> list[float]:
    """Find the draws that have so many draws before them when all are sorted, without sorting them.

    32-bit floats have keys of 32 bits that are ordered as they are. Counting the keys by their upper halves
    tells which upper half a draw has, and counting those of this upper half tells the lower one.

    Args:
        samples: Of all cases.
        ranks: Counted from 0.
    """
    coarse = np.zeros(1 << HALF_BITS)
    for case in samples:
        upper = _keys(case.values) >> HALF_BITS
        coarse += np.bincount(upper, weights=case.counts, minlength=len(coarse))
    ends = np.cumsum(coarse)
    uppers = np.searchsorted(ends, ranks, side="right")
    fine = {upper: _lower_halves(samples, upper) for upper in set(uppers.tolist())}
    lowers = [
        np.searchsorted(np.cumsum(fine[upper]), rank - (ends[upper] - coarse[upper]), side="right")
        for upper, rank in zip(uppers.tolist(), ranks, strict=True)
    ]
    keys = np.array(
        [(upper << HALF_BITS) + int(lower) for upper, lower in zip(uppers.tolist(), lowers, strict=True)]
    )
    return [float(value) + 0.0 for value in _values(keys.astype(np.uint32))]


def _lower_halves(samples: Sequence[Samples], upper: int) -> npt.NDArray[np.float64]:
    """Count the lower halves of the keys that have an upper half."""
    counted = np.zeros(1 << HALF_BITS)
    for case in samples:
        keys = _keys(case.values)
        chosen = np.flatnonzero(keys >> HALF_BITS == upper)
        lower = keys[chosen] & np.uint32((1 << HALF_BITS) - 1)
        np.add.at(counted, lower, case.counts[chosen])
    return counted


def _keys(values: FloatArray) -> Words:
    """Return whole numbers that are ordered as 32-bit floats are; the bits of negative ones run backwards."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    keys: Words = np.where(bits < SIGN_BIT, bits | SIGN_BIT, ~bits)
    return keys


def _values(keys: Words) -> FloatArray:
    """Return the 32-bit floats of keys."""
    return np.where(keys >= SIGN_BIT, keys ^ SIGN_BIT, ~keys).view(np.float32)
