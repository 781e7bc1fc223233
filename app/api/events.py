"""The route that tells of a job as it goes: server-sent events, which a client that was cut off catches up on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from app.api.deps import BaseDep, NoQuery, ResourcesDep
from app.api.jobs import view_of
from app.db.base import transaction
from app.services import history
from app.services.history import Entry, News
from app.services.resources import Resources

router = APIRouter(prefix="/jobs", tags=["jobs"])

MEDIA_TYPE = "text/event-stream"

LOOK_SECONDS = 0.5
"""Between two looks at the rows."""

QUIET_SECONDS = 15.0
"""After so long without news a comment keeps proxies from closing the connection."""

RETRY_MILLISECONDS = 2000
"""When a client that was cut off shall come back."""

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Nobody on the way may keep events back."""

LastEventId = Annotated[
    int,
    Header(
        alias="Last-Event-ID",
        ge=0,
        lt=2**63,
        description="The last entry that the client has; what came later is sent again.",
    ),
]


@router.get(
    "/{job_id}/events",
    dependencies=[NoQuery],
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {}}}, 204: {"description": "The end was told before."}},
)
async def follow_job(
    job_id: UUID, resources: ResourcesDep, base: BaseDep, last_event_id: LastEventId = 0
) -> Response:
    """Follow a job and, for a training, its jobs; the stream ends when the job does.

    Events: `state` (a job moved), `epoch` (one is finished), `resumed` (epochs from this one on are done
    again) carry ids, and are sent again to a client that comes back with `Last-Event-ID`. `progress` tells
    how the job stands, `end` is the job itself. A client that has seen the end gets 204 when it comes back.
    """
    first = await run_in_threadpool(_look, resources, job_id, last_event_id)
    if first.status.has_ended and last_event_id > 0 and not first.entries:
        return Response(status_code=204)
    return StreamingResponse(
        _stream(resources, base, first, last_event_id), media_type=MEDIA_TYPE, headers=HEADERS
    )


async def _stream(resources: Resources, base: str, news: News, seen: int) -> AsyncIterator[bytes]:
    """Yield events until the job has ended and everything is told."""
    job_id, shown, spoke_at = news.status.job.id, "", time.monotonic()
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    while True:
        for entry in news.entries:
            yield _event_of(entry)
            seen = entry.id
        progress = _progress_of(news, base)
        if progress != shown:
            shown, spoke_at = progress, time.monotonic()
            yield format_sse_event(event="progress", data_str=progress)
        if news.is_all and news.status.has_ended:
            yield format_sse_event(
                event="end", data_str=view_of(news.status, base).model_dump_json(exclude={"children"})
            )
            return
        if news.is_all:
            await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() - spoke_at >= QUIET_SECONDS:
            spoke_at = time.monotonic()
            yield KEEPALIVE_COMMENT
        news = await run_in_threadpool(_look, resources, job_id, seen)


def _event_of(entry: Entry) -> bytes:
    told: Mapping[str, Any] = {
        "job_id": str(entry.job_id),
        "title": entry.title,
        "at": entry.at.isoformat(),
        **entry.content,
    }
    return format_sse_event(event=entry.kind.value, data_str=json.dumps(told), id=str(entry.id))


def _progress_of(news: News, base: str) -> str:
    """Return what a progress bar needs."""
    return view_of(news.status, base).model_dump_json(include={"id", "state", "progress", "queue"})


def _look(resources: Resources, job_id: UUID, seen: int) -> News:
    with transaction(resources.readers) as session:
        return history.news(session, job_id, seen)
