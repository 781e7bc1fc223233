"""Routes of aliases: list, read, set or move, delete; each is written name@alias."""

from datetime import datetime
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from app.api.deps import BaseDep, Body, NoQuery, PageQuery, ResourcesDep, SessionDep, precondition_of
from app.db.base import transaction
from app.db.models import ModelAlias
from app.requests import AliasRequest, Name
from app.services import aliases

router = APIRouter(prefix="/models/aliases", tags=["models"])

AliasPath = Annotated[str, Path(description="Name of a model and alias.", examples=["liver@production"])]


class AliasQuery(PageQuery):
    """Which aliases."""

    name: Name | None = None
    """Of a model."""


class AliasView(Body):
    """An alias and the model that it points at."""

    reference: str
    """`name@alias`, as POST /predict takes it."""
    name: str
    alias: str
    version: int | None
    model_id: UUID
    created_at: datetime
    updated_at: datetime
    """When it was moved last."""
    links: dict[str, str]


class AliasPage(Body):
    """Some aliases, newest first."""

    items: list[AliasView]
    next_cursor: str | None


@router.get("")
def list_aliases(session: SessionDep, query: Annotated[AliasQuery, Query()], base: BaseDep) -> AliasPage:
    """List aliases, newest first; with `name`, those of one model's versions."""
    page = aliases.read(session, query.request(), query.name)
    return AliasPage(items=[_view(row, base) for row in page.items], next_cursor=page.next_cursor)


@router.get("/{reference:path}", dependencies=[NoQuery])
def get_alias(session: SessionDep, reference: AliasPath, base: BaseDep, response: Response) -> AliasView:
    """Read where an alias points; its ETag is for `If-Match`."""
    row = aliases.find(session, aliases.alias_reference(reference))
    response.headers.update(_tag(row))
    return _view(row, base)


@router.put(
    "/{reference:path}",
    response_model=AliasView,
    dependencies=[NoQuery],
    responses={201: {"model": AliasView, "description": "There was no such alias before."}},
)
def put_alias(
    request: Request, reference: AliasPath, body: AliasRequest, resources: ResourcesDep, base: BaseDep
) -> Response:
    """Let an alias point at a version, or move it there, at once.

    `If-Match` with the ETag of what you have read refuses to move what somebody else moved since.
    """
    named = aliases.alias_reference(reference)
    was_there = aliases.put(resources, named, body, precondition_of(request))
    with transaction(resources.readers) as session:
        row = aliases.find(session, named)
        view, headers = _view(row, base), _tag(row)
    if not was_there:
        headers["Location"] = view.links["self"]
    return JSONResponse(view.model_dump(mode="json"), status_code=200 if was_there else 201, headers=headers)


@router.delete("/{reference:path}", dependencies=[NoQuery], status_code=204)
def delete_alias(request: Request, reference: AliasPath, resources: ResourcesDep) -> None:
    """Delete an alias; the model stays."""
    aliases.remove(resources, aliases.alias_reference(reference), precondition_of(request))


def _view(row: ModelAlias, base: str) -> AliasView:
    reference = f"{row.name}@{row.alias}"
    return AliasView(
        reference=reference,
        name=row.name,
        alias=row.alias,
        version=row.model.version,
        model_id=row.model_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links={
            "self": f"{base}/models/aliases/{quote(reference, safe='@')}",
            "model": f"{base}/models/{row.model_id}",
            "predict": f"{base}/predict?model={quote(reference, safe='@')}",
        },
    )


def _tag(row: ModelAlias) -> dict[str, str]:
    return {"ETag": f'"{aliases.tag_of(row)}"'}
