"""What shapes a preprocessed case, as a digest: where two agree, the arrays are the same and are made once."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from core import extensions
from core.domain.labels import LabelSet
from core.domain.plan import Configuration, Plan
from core.extensions import Group

VERSION: Final = 2
"""Raised when preprocessing itself changes its results, or the form in which they are kept."""

OWN_INTENSITIES: Final = frozenset(
    {"ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}
)
"""Schemes that look at the image alone; any other one may use the intensities of the whole dataset."""

SIDE_CAR_ENDINGS: Final = (".tif", ".tiff")
"""Formats whose spacing stands in a JSON file beside them."""


def recipe_digest(plan: Plan, configuration: Configuration, labels: LabelSet | None = None) -> str:
    """Hash all that a plan says of preprocessing, and nothing else of it.

    Names of configurations and plans do not count, nor does what only planning or training uses. So a
    cascade's second stage has the digest of the configuration that it inherits from. What a package adds
    counts with the version of the package.

    Args:
        plan: Axis order, reader, intensities of the dataset.
        configuration: Spacing, normalization and resampling.
        labels: What the dataset declares, of which class locations are drawn; None where the digest of the
            dataset says it anyhow.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    known = plan.foreground_intensity_properties_per_channel
    resamplings = (configuration.resampling_fn_data, configuration.resampling_fn_seg)
    packages = {
        **extensions.givers(Group.READER, [plan.image_reader_writer]),
        **extensions.givers(Group.NORMALIZATION, configuration.normalization_schemes),
        **extensions.givers(Group.RESAMPLING, resamplings),
    }
    content = {
        "version": VERSION,
        "reader": plan.image_reader_writer,
        "axes": plan.transpose_forward,
        "preprocessor": configuration.preprocessor_name,
        "spacing": configuration.spacing,
        "is_2d": configuration.is_2d,
        "schemes": configuration.normalization_schemes,
        "is_masked": configuration.use_mask_for_norm,
        "intensities": {
            str(channel): known[str(channel)].to_json()
            for channel, scheme in enumerate(configuration.normalization_schemes)
            if scheme not in OWN_INTENSITIES and str(channel) in known
        },
        "images": [configuration.resampling_fn_data, configuration.resampling_fn_data_kwargs],
        "labels": [configuration.resampling_fn_seg, configuration.resampling_fn_seg_kwargs],
        "classes": None if labels is None else [labels.foreground_heads, labels.ignore, labels.labels],
        **({"packages": packages} if packages else {}),
    }
    return _sha256(content)


def case_digest(recipe: str, images: Sequence[Path], label: Path | None) -> str:
    """Hash the files of a case, byte by byte, and what is done with them.

    Args:
        recipe: From `recipe_digest`.
        images: In channel order.
        label: The reference, if there is one.

    Returns:
        A SHA-256 in hexadecimal digits.

    Raises:
        OSError: A file cannot be read.
    """
    files = [[_file_digest(path) for path in (one, *_side_cars(one))] for one in images]
    reference = [] if label is None else [_file_digest(path) for path in (label, *_side_cars(label))]
    return _sha256([recipe, files, reference])


def _sha256(content: Any) -> str:
    """Hash JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _side_cars(path: Path) -> Iterator[Path]:
    """Find the files beside an image that say something of it."""
    if not path.name.lower().endswith(SIDE_CAR_ENDINGS):
        return
    for stem in dict.fromkeys((path.stem, re.sub(r"_\d{4}$", "", path.stem))):
        side_car = path.with_name(f"{stem}.json")
        if side_car.is_file():
            yield side_car
