"""What routes ask for: a session to read with, the service's resources, the settings, their own address."""

import re
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.db.base import transaction
from app.errors import RequestError
from app.services.paging import PageRequest
from app.services.preconditions import Precondition
from app.services.resources import Resources
from app.settings import Settings

VERSION_PREFIX = "/v1"
"""Every route is there twice: plain, and under this prefix, which stays when a later version changes things."""

LARGEST_PAGE = 200

TAG = re.compile(r'(?:^|,)\s*"([^"]*)"\s*(?=$|,)')
"""Entity tags of an `If-Match`; a weak one never matches (RFC 9110, 13.1.1)."""


class Body(BaseModel):
    """What goes over the wire; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class PageQuery(Body):
    """Which part of a list."""

    limit: int = Field(default=50, ge=1, le=LARGEST_PAGE)
    cursor: str | None = Field(default=None, max_length=500)

    def request(self) -> PageRequest:
        """Return it as the services take it."""
        return PageRequest(self.limit, self.cursor)


def resources_of(request: Request) -> Resources:
    """Return what `create_app` wired."""
    resources: Resources = request.app.state.resources
    return resources


def settings_of(request: Request) -> Settings:
    """Return what the application was created with."""
    settings: Settings = request.app.state.settings
    return settings


def reading(request: Request) -> Iterator[Session]:
    """Open a session that reads one snapshot and is closed before the answer is sent."""
    with transaction(resources_of(request).readers) as session:
        yield session


async def resources(request: Request) -> Resources:
    """Return what `create_app` wired; async as all here that waits for nothing: others cost a thread each."""
    return resources_of(request)


async def base_of(request: Request) -> str:
    """Return what stands before every path of an answer's links: a proxy's prefix, and the version."""
    prefix = VERSION_PREFIX if request.url.path.startswith(f"{VERSION_PREFIX}/") else ""
    return str(request.scope.get("root_path", "")) + prefix


async def no_query(request: Request) -> None:
    """Refuse parameters on a route that takes none.

    Raises:
        RequestError: There are some.
    """
    if request.query_params:
        names = ", ".join(sorted(set(request.query_params)))
        raise RequestError(f"this address takes no parameters, but these came: {names}")


def precondition_of(request: Request) -> Precondition:
    """Read `If-Match` and `If-None-Match: *`.

    Raises:
        RequestError: `If-None-Match` names a tag, which says nothing about a change.
    """
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if none_match is not None and none_match.strip() != "*":
        raise RequestError("If-None-Match takes only *, which creates a thing and never replaces one")
    if match is None:
        return Precondition(is_absent=none_match is not None)
    if match.strip() == "*":
        return Precondition(is_there=True, is_absent=none_match is not None)
    return Precondition(tags=frozenset(TAG.findall(match)), is_absent=none_match is not None)


ResourcesDep = Annotated[Resources, Depends(resources)]
SessionDep = Annotated[Session, Depends(reading, scope="function")]
BaseDep = Annotated[str, Depends(base_of)]
PageDep = Annotated[PageQuery, Query()]
IdempotencyDep = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
NoQuery = Depends(no_query)
