"""What POST /predict is sent: an image, and what its address and its form say of how to segment it."""

import re
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from app.api.deps import Body
from app.api.uploads import Expected, Part, Upload
from app.errors import RequestError
from app.jobs import Urgency
from app.requests import FoldList, PrecisionChoice, PredictionChoices, StepSize, folds_in
from app.services import aliases
from app.services.aliases import FORMS, LONGEST_REFERENCE
from app.services.formats import file_ending
from app.services.predictions import PredictionRequest


class PredictQuery(Body):
    """How to segment; each entry may stand in the address or in the form, which a raw body lacks."""

    model: Annotated[str, Field(max_length=LONGEST_REFERENCE, description=f"It is {FORMS}.")] | None = None
    urgency: Urgency | None = Field(
        default=None, description="`interactive`, the default, goes before `batch`."
    )
    folds: FoldList | None = Field(
        default=None,
        description="`0,1` or `all`; of an ensemble in every member. By default every numbered one.",
    )
    mirroring: bool | None = Field(default=None, description="True by default.")
    step_size: StepSize | None = Field(
        default=None, description="Distance of neighbouring tiles as a share of the patch; 0.5 by default."
    )
    postprocessing: bool | None = Field(
        default=None, description="Whether to remove what the model's postprocessing says; true by default."
    )
    precision: PrecisionChoice | None = Field(
        default=None, description="`auto` by default; `fp32` computes as the reference does."
    )
    probabilities: bool | None = Field(default=None, description="Keep them as well; false by default.")
    uncertainty: bool | None = Field(default=None, description="Map it as well; false by default.")


EXPECTED = Expected(
    raw_field="image",
    files=re.compile(r"image(_\d{4})?"),
    texts=tuple(PredictQuery.model_fields),
    hint="send the field `image` once per channel, in the model's order, or `image_0000`, `image_0001` …",
)

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **PredictQuery.model_json_schema()["properties"],
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def request_of(query: PredictQuery, upload: Upload) -> PredictionRequest:
    """Put together what the address and the form say.

    Raises:
        RequestError: They contradict each other, no model is named, or the channels do not belong together.
        RequestValidationError: A field of the form is not what it must be.
        ImageError: A file is no image.
    """
    said = _together(query, _form_of(upload))
    if "model" not in said:
        raise RequestError(f"no model is named; send the form field `model`, or ?model= with {FORMS}")
    parts = _in_order(upload.parts)
    return PredictionRequest(
        model=said.pop("model"),
        urgency=said.pop("urgency", "interactive"),
        choices=PredictionChoices.model_validate(said),
        images=[part.file for part in parts],
        ending=_common_ending(parts),
    )


def _form_of(upload: Upload) -> PredictQuery:
    """Read the form's fields as the address is read."""
    try:
        return PredictQuery.model_validate(upload.texts)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def _together(query: PredictQuery, form: PredictQuery) -> dict[str, Any]:
    """Return what either says."""
    address, body = _said(query), _said(form)
    for name in address.keys() & body.keys():
        if address[name] != body[name]:
            raise RequestError(f"the address and the form say different things of `{name}`; say it once")
    return address | body


def _said(one: PredictQuery) -> dict[str, Any]:
    """Return the entries that are there, as the service takes them."""
    said = one.model_dump(exclude_none=True)
    for name, read in (("model", aliases.parsed), ("folds", folds_in)):
        if name in said:
            said[name] = read(said[name])
    return said


def _in_order(parts: list[Part]) -> list[Part]:
    """Sort the files by channel: as sent, or by the numbers in their field names."""
    numbered = [part for part in parts if part.field != "image"]
    if not numbered:
        return parts
    ordered = sorted(parts, key=lambda part: part.field)
    wanted = [f"image_{number:04d}" for number in range(len(parts))]
    if [part.field for part in ordered] != wanted:
        raise RequestError(f"the fields must be {', '.join(wanted)}, each once; or name all of them `image`")
    return ordered


def _common_ending(parts: list[Part]) -> str:
    """Tell the format of the image; its channels must share it."""
    endings = [file_ending(part.name, part.file.head) for part in parts]
    if len(set(endings)) > 1:
        raise RequestError(
            f"the channels have different formats ({', '.join(endings)}); send all in the same one"
        )
    return endings[0]
