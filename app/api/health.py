"""Routes of operation: is the process alive, can it work."""

from typing import Literal

from fastapi import APIRouter

from app.api.deps import Body, NoQuery, ResourcesDep
from app.services import health

router = APIRouter(prefix="/health", tags=["health"], dependencies=[NoQuery])


class LiveView(Body):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyView(LiveView):
    """It can do its work."""

    checks: dict[str, str]


@router.get("/live")
def live() -> LiveView:
    """Say that the process answers; needs no key."""
    return LiveView()


@router.get("/ready")
def ready(resources: ResourcesDep) -> ReadyView:
    """Say that database, schema and store are there; 503 if one is not."""
    return ReadyView(checks=dict(health.check(resources)))
