"""What is removed from every segmentation of a model (postprocessing.json), because on the validation cases it helped."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from core.domain.record import Record, describe, parse_json
from core.errors import ModelError

POSTPROCESSING_FILE: Final = "postprocessing.json"
"""The record's name in the folder of a model, and beside an ensemble's record."""

POSTPROCESSING_VERSION: Final = 1
"""Version of postprocessing.json that this code writes, and the newest that it reads."""

KEEP_LARGEST: Final = "remove_all_but_largest_component_from_segmentation"
"""What the reference calls the one step that it knows."""

LabelGroup = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
"""Foreground labels that are looked at together."""


class Postprocessing(Record):
    """postprocessing.json: steps in the order in which they are taken.

    Source:
        Engine specification B 7.7.
    """

    version: Literal[1] = 1
    keep_largest: tuple[LabelGroup, ...] = ()
    """Of the union of each group's labels only the largest connected component stays; its other voxels become
    background."""

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a postprocessing.json, of ours or of the reference.

        Raises:
            ModelError: It cannot be used, or a newer version of this software wrote it.
        """
        values = parse_json(text, POSTPROCESSING_FILE, ModelError)
        version = values.get("version")
        if isinstance(version, int) and version > POSTPROCESSING_VERSION:
            raise ModelError(
                f"{POSTPROCESSING_FILE} has version {version}, this software reads up to {POSTPROCESSING_VERSION}; "
                "update it"
            )
        if "postprocessing_fns" in values:
            names, arguments = values["postprocessing_fns"], values.get("postprocessing_kwargs")
            return cls.of_functions(names, arguments)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ModelError(f"{POSTPROCESSING_FILE} cannot be used: {describe(error)}") from error

    @classmethod
    def of_functions(cls, names: object, arguments: object) -> Self:
        """Understand what the reference keeps: names of functions, and for each its keyword arguments.

        Args:
            names: Should be a list of texts.
            arguments: Should be as many dictionaries, each with `labels_or_regions`.

        Raises:
            ModelError: A name is not known, or its arguments say something else than which component to keep.

        Source:
            Engine specification B 7.7.
        """
        if (
            not isinstance(names, list)
            or not isinstance(arguments, list)
            or len(names) != len(arguments)
            or not all(isinstance(one, Mapping) for one in arguments)
        ):
            raise ModelError(
                "the postprocessing must be as many names of functions as arguments; determine it again"
            )
        unknown = sorted({str(name) for name in names if name != KEEP_LARGEST})
        if unknown:
            raise ModelError(
                f"the postprocessing names {', '.join(unknown)}, which is not known; determine it again"
            )
        try:
            return cls(keep_largest=tuple(_group(one) for one in arguments))
        except ValidationError as error:
            raise ModelError(f"the postprocessing cannot be used: {describe(error)}") from error
        except RecursionError as error:
            raise ModelError(
                "the postprocessing has lists within lists without end; determine it again"
            ) from error


def _group(arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the labels whose largest component the reference keeps.

    Raises:
        ModelError: The arguments are others.
    """
    others = set(arguments) - {"labels_or_regions", "background_label"}
    if others or "labels_or_regions" not in arguments or arguments.get("background_label", 0) != 0:
        raise ModelError(
            f"the postprocessing has arguments that are not known: {', '.join(map(str, arguments)) or 'none'}; "
            "determine it again"
        )
    return tuple(dict.fromkeys(_labels(arguments["labels_or_regions"])))


def _labels(value: object) -> Sequence[Any]:
    """Return the labels of a label, of a region, or of a list of both."""
    if not isinstance(value, list | tuple):
        return [value]
    return [label for part in value for label in _labels(part)]
