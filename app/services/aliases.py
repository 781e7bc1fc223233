"""Names of models: versions within a line, aliases that point at one, and what a reference to a model stands for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app.db.base import now, transaction
from app.db.models import ModelAlias, TrainedModel
from app.errors import ConflictError, NotFoundError, RequestError
from app.requests import NAME_PATTERN, AliasRequest
from app.services import models
from app.services.paging import Page, PageRequest, read_page
from app.services.preconditions import Precondition
from app.services.resources import Resources, insistently

NOUN = "alias"
"""In sentences about what a client expected."""

LONGEST_REFERENCE = 250
"""Characters: of a name, a sign and an alias."""

VERSIONED = re.compile(r"(?P<name>.+):(?P<version>[0-9]{1,9})")

ALIASED = re.compile(r"(?P<name>.+)@(?P<alias>[A-Za-z][A-Za-z0-9._-]{0,99})")

FORMS = "the id of a model as GET /models lists it, or name:version, or name@alias"
"""What may stand where a model is named."""

ATTEMPTS = 12
"""How often a version number is looked for when another model takes it in the meantime."""


@dataclass(frozen=True, slots=True)
class AliasReference:
    """`name@alias`."""

    name: str
    alias: str

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class VersionReference:
    """`name:version`."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


ModelReference = UUID | VersionReference | AliasReference


def parsed(text: str) -> ModelReference:
    """Understand how a client names a model.

    Names may hold both signs: what follows the last one tells a version from an alias, since no alias begins with
    a digit or holds either sign.

    Raises:
        RequestError: It is none of the forms.
    """
    try:
        return UUID(text)
    except ValueError:
        pass
    if len(text) <= LONGEST_REFERENCE and re.match(NAME_PATTERN, text):
        if found := VERSIONED.fullmatch(text):
            return VersionReference(found["name"], int(found["version"]))
        if found := ALIASED.fullmatch(text):
            return AliasReference(found["name"], found["alias"])
    raise RequestError(f"`model` must be {FORMS}; this is none: {text[:100]!r}")


def alias_reference(text: str) -> AliasReference:
    """Understand `name@alias`.

    Raises:
        RequestError: It is something else.
    """
    found = ALIASED.fullmatch(text) if len(text) <= LONGEST_REFERENCE else None
    if found is None or not re.match(NAME_PATTERN, text):
        raise RequestError(
            f"an alias is written name@alias, such as liver@production; it begins with a letter, followed by letters, "
            f"digits, points, lines and underscores; this is none: {text[:100]!r}"
        )
    return AliasReference(found["name"], found["alias"])


def resolve(session: Session, reference: ModelReference) -> UUID:
    """Return the model that a reference stands for at this moment.

    Raises:
        NotFoundError: It stands for none; the sentence says which there are.
    """
    match reference:
        case UUID():
            return reference
        case VersionReference():
            return _version(session, reference.name, reference.version).id
        case AliasReference():
            return find(session, reference).model_id


def find(session: Session, reference: AliasReference) -> ModelAlias:
    """Return an alias with its model.

    Raises:
        NotFoundError: There is none; the sentence says which there are.
    """
    row: ModelAlias | None = session.scalar(_named(reference).options(joinedload(ModelAlias.model)))
    if row is None:
        raise _unknown(session, reference)
    return row


def read(session: Session, page: PageRequest, name: str | None) -> Page[ModelAlias]:
    """Return aliases with their models, newest first; of one name, if it is given."""
    query = select(ModelAlias).options(joinedload(ModelAlias.model))
    if name is not None:
        query = query.where(ModelAlias.name == name)
    return read_page(session, query, ModelAlias, page)


def of_models(session: Session, model_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
    """Return the aliases of some models, by model."""
    rows = select(ModelAlias).where(ModelAlias.model_id.in_(model_ids)).order_by(ModelAlias.alias)
    found: dict[UUID, list[str]] = {}
    for row in session.scalars(rows):
        found.setdefault(row.model_id, []).append(row.alias)
    return found


def put(
    resources: Resources, reference: AliasReference, request: AliasRequest, precondition: Precondition
) -> bool:
    """Let an alias point at a model, at once: whoever asks sees either the model before or this one.

    Args:
        resources: Where to.
        reference: Which alias.
        request: The model.
        precondition: At which one it must have pointed so far.

    Returns:
        Whether the alias was there before.

    Raises:
        NotFoundError: There is no such model or version.
        ConflictError: The model is of another name, or cannot be used.
        PreconditionError: The alias points at something else than the client says.
    """

    def write() -> bool:
        with transaction(resources.sessions) as session:
            model_id = request.model_id
            if model_id is None:
                model_id = _version(session, reference.name, request.version or 0).id
            model = models.hold_ready(session, model_id)
            _require_of_line(model, reference)
            row: ModelAlias | None = session.scalar(_named(reference).with_for_update())
            precondition.require(None if row is None else tag_of(row), NOUN)
            if row is None:
                session.add(ModelAlias(name=reference.name, alias=reference.alias, model_id=model.id))
            elif row.model_id != model.id:
                row.model_id, row.updated_at = model.id, now()
            return row is not None

    return insistently(write)


def remove(resources: Resources, reference: AliasReference, precondition: Precondition) -> None:
    """Delete an alias; its model stays.

    Raises:
        NotFoundError: There is no such alias.
        PreconditionError: It points at something else than the client says.
    """
    with transaction(resources.sessions) as session:
        row: ModelAlias | None = session.scalar(_named(reference).with_for_update())
        if row is None:
            raise _unknown(session, reference)
        precondition.require(tag_of(row), NOUN)
        session.execute(delete(ModelAlias).where(ModelAlias.id == row.id))


def tag_of(row: ModelAlias) -> str:
    """Return what tells one state of an alias from another: the model that it points at."""
    return str(row.model_id)


def reference_of(model: TrainedModel) -> str:
    """Return how a model is called: `name:version`; its name alone where an earlier release made it."""
    return model.name if model.version is None else f"{model.name}:{model.version}"


def number(session: Session, model: TrainedModel) -> None:
    """Give a model that became ready the next version of its line; those of deleted ones are not given again."""
    session.flush()
    for remaining in reversed(range(ATTEMPTS)):
        highest = session.scalar(
            select(func.max(TrainedModel.version)).where(TrainedModel.name == model.name)
        )
        try:
            with session.begin_nested():
                model.version = (highest or 0) + 1
        except IntegrityError:  # Another one took it in the meantime.
            if remaining == 0:
                raise
        else:
            return


def _named(reference: AliasReference) -> Select[Any]:
    return select(ModelAlias).where(ModelAlias.name == reference.name, ModelAlias.alias == reference.alias)


def _version(session: Session, name: str, version: int) -> TrainedModel:
    """Return one version of a line.

    Raises:
        NotFoundError: There is no such line or version.
    """
    line = select(TrainedModel).where(TrainedModel.name == name)
    found: TrainedModel | None = session.scalar(line.where(TrainedModel.version == version))
    if found is not None:
        return found
    versions = session.scalars(
        select(TrainedModel.version)
        .where(TrainedModel.name == name, TrainedModel.state == "ready", TrainedModel.version.is_not(None))
        .order_by(TrainedModel.version.desc())
        .limit(10)
    ).all()
    if not versions:
        raise NotFoundError(f"there is no model {name}; GET /models lists those there are", name=name)
    listed = ", ".join(map(str, sorted(one for one in versions if one is not None)))
    raise NotFoundError(f"the model {name} has no version {version}; it has: {listed}", name=name)


def _unknown(session: Session, reference: AliasReference) -> NotFoundError:
    """Say that there is no such alias, and which there are."""
    query = select(ModelAlias.alias).where(ModelAlias.name == reference.name).order_by(ModelAlias.alias)
    known = list(session.scalars(query.limit(10)))
    cure = f"it has: {', '.join(known)}" if known else f"set it with PUT /models/aliases/{reference}"
    return NotFoundError(
        f"the model {reference.name} has no alias {reference.alias}; {cure}", alias=str(reference)
    )


def _require_of_line(model: TrainedModel, reference: AliasReference) -> None:
    """Refuse an alias of one name for a model of another."""
    if model.name != reference.name:
        raise ConflictError(
            f"model {model.id} is called {model.name}, so {reference} cannot point at it; set "
            f"{model.name}@{reference.alias} instead",
            model_id=str(model.id),
            name=model.name,
        )
