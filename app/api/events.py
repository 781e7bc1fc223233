"""The route that tells of a job as it goes: server-sent events, which a client that was cut off catches up on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api.deps import BaseDep, NoQuery, ResourcesDep
from app.api.jobs import view_of
from app.db.base import is_outage, transaction
from app.errors import NotFoundError
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

END = "-end"
"""After the id of the last entry: the id of the end itself, so that who was cut off before it gets it."""

LastEventId = Annotated[
    str,
    Header(
        alias="Last-Event-ID",
        pattern=rf"^\d{{1,18}}({END})?$",
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
    job_id: UUID, resources: ResourcesDep, base: BaseDep, last_event_id: LastEventId = "0"
) -> Response:
    """Follow a job and, for a training, its jobs; the stream ends when the job does.

    Events: `state` (a job moved), `epoch` (one is finished), `resumed` (epochs from this one on are done
    again) carry ids, and are sent again to a client that comes back with `Last-Event-ID`. `progress` tells
    how the job stands, `end` is the job itself. A client that has seen the end gets 204 when it comes back.
    """
    seen = int(last_event_id.removesuffix(END))
    first = await run_in_threadpool(_look, resources, job_id, seen)
    if first.status.has_ended and last_event_id.endswith(END) and not first.entries:
        return Response(status_code=204)
    return StreamingResponse(_stream(resources, base, first, seen), media_type=MEDIA_TYPE, headers=HEADERS)


async def _stream(resources: Resources, base: str, first: News, seen: int) -> AsyncIterator[bytes]:
    """Yield events until the job has ended and everything is told."""
    shown, spoke_at = "", time.monotonic()
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    async for news in _looks(resources, first, seen):
        for entry in news.entries:
            seen = entry.id
            yield _event_of(entry)
        progress = _progress_of(news, base)
        if progress != shown:
            shown, spoke_at = progress, time.monotonic()
            yield format_sse_event(event="progress", data_str=progress)
        elif time.monotonic() - spoke_at >= QUIET_SECONDS:
            spoke_at = time.monotonic()
            yield KEEPALIVE_COMMENT
        if news.is_all and news.status.has_ended:
            whole = view_of(news.status, base).model_dump_json(exclude={"children"})
            yield format_sse_event(event="end", data_str=whole, id=f"{seen}{END}")


async def _looks(resources: Resources, news: News, seen: int) -> AsyncIterator[News]:
    """Yield how a job stands again and again, until it has ended or is deleted.

    A database that is away is no news: the answer has begun, so all that can be done is to look again later.
    """
    while True:
        yield news
        if news.is_all and news.status.has_ended:
            return
        if news.is_all:
            await asyncio.sleep(LOOK_SECONDS)
        seen = news.entries[-1].id if news.entries else seen
        try:
            news = await run_in_threadpool(_look, resources, news.status.job.id, seen)
        except NotFoundError:
            return
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            news = replace(news, entries=(), is_all=True)


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
