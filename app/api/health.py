"""Routes of operation: is the process alive, can it work."""

from typing import Literal

from fastapi import APIRouter, Request

from app import alive
from app.api.deps import Body, NoQuery, ResourcesDep, settings_of
from app.services import health

router = APIRouter(prefix="/health", tags=["health"], dependencies=[NoQuery])


class LiveView(Body):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyView(LiveView):
    """It can do its work."""

    checks: dict[str, str]
    lanes: dict[str, str]
    """Per lane: ok, or no worker, so that its jobs wait; the service is ready nevertheless."""


@router.get("/live")
def live() -> LiveView:
    """Say that the process answers; needs no key."""
    return LiveView()


@router.get("/ready")
def ready(request: Request, resources: ResourcesDep) -> ReadyView:
    """Say that database, schema, store and queue are there, and which lanes have workers; 503 if one is not there."""
    checks = health.check(resources)
    folder = settings_of(request).resolved_workspace_dir / alive.FOLDER_NAME
    return ReadyView(checks=dict(checks), lanes=dict(health.lanes(resources, folder)))
