"""The answer to a request that takes long: 202 and where to look, or 200 if the client waited for the end."""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.deps import Body, resources_of, settings_of
from app.db.base import transaction
from app.services import following
from app.services.following import JobStatus
from app.services.resources import RequestKey, Resources, Submission

SHORTEST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.1
"""Between two looks at the row while a client waits."""

LATENESS = 0.05
"""By which part of its wait a client may hear of the end too late: a job of seconds is looked at more often."""

RETRY_AFTER_SECONDS = 1
"""When a client should look again at a job."""

PREFERRED_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
"""`Prefer: wait=30`, among other preferences (RFC 7240)."""


class Accepted(Body):
    """What a request made that goes on after its answer."""

    id: UUID
    """Of the dataset, training or prediction."""
    state: str
    job_id: UUID
    links: dict[str, str]
    error: dict[str, Any] | None = None
    """Problem document, if the job has ended badly already."""


def wait_of(request: Request) -> int | None:
    """Return for how many seconds the client wants to wait, within the limit; None if it does not."""
    found = PREFERRED_WAIT.search(request.headers.get("prefer", ""))
    return None if found is None else min(int(found.group(1)), int(settings_of(request).max_wait_seconds))


async def ended(request: Request, resources: Resources, job_id: UUID, seconds: float) -> JobStatus:
    """Return the job as soon as it has ended, or as it is when the time is up or the client is gone."""
    began = time.monotonic()
    while True:
        status = await run_in_threadpool(_look, resources, job_id)
        waited = time.monotonic() - began
        if status.has_ended or waited >= seconds or await request.is_disconnected():
            return status
        pause = min(max(LATENESS * waited, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(min(pause, seconds - waited))


def applied(seconds: int | None) -> dict[str, str]:
    """Return the header that confirms a wait."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}


def answer(
    base: str, submission: Submission, status: JobStatus, accepted: Accepted, seconds: int | None
) -> JSONResponse:
    """Answer 200 if the client waited and the job has ended, else 202 with the address of the job."""
    headers = applied(seconds)
    if submission.replayed:
        headers["Idempotency-Replayed"] = "true"
    has_ended = seconds is not None and status.has_ended
    if not has_ended:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    headers["Location"] = f"{base}/jobs/{submission.job_id}"
    content = accepted.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, status_code=200 if has_ended else 202, headers=headers)


async def respond(
    request: Request, base: str, submission: Submission, view: Callable[[Session, JobStatus], Accepted]
) -> JSONResponse:
    """Wait as long as the client prefers, then answer.

    Args:
        request: Its headers and application.
        base: Prefix of links.
        submission: What was made.
        view: Describes it, given the job.
    """
    resources = resources_of(request)
    seconds = wait_of(request)
    status = await ended(request, resources, submission.job_id, seconds or 0)

    def describe() -> Accepted:
        with transaction(resources.readers) as session:
            return view(session, status)

    return answer(base, submission, status, await run_in_threadpool(describe), seconds)


def request_key(key: str | None, route: str, parts: Mapping[str, object]) -> RequestKey | None:
    """Return an Idempotency-Key with a digest of what came with it; None without a key."""
    if key is None:
        return None
    text = "\n".join([route, *(f"{name}={value!r}" for name, value in sorted(parts.items()))])
    return RequestKey(key, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def _look(resources: Resources, job_id: UUID) -> JobStatus:
    with transaction(resources.readers) as session:
        return following.find(session, job_id)
