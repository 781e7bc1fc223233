"""What holds for every request: its id, who may send it and from where, headers that keep browsers honest."""

import hmac
import logging
import re
from collections.abc import Mapping
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import ForbiddenError, TooLargeError, UnauthorizedError
from app.log import request_id
from app.settings import Settings
from core.errors import DomainError

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health/live", "/v1/health/live"})
"""What may be asked without a key: whether the process is alive, and nothing of what it holds."""

UPLOAD_PATHS = frozenset(
    prefix + path for prefix in ("", "/v1") for path in ("/datasets", "/models", "/predict")
)
"""Whose routes stream their bodies to disk, within limits of their own."""

LARGEST_BODY_BYTES = 1024 * 1024
"""Of any other request; it is held in memory."""

PLAN_PATH = re.compile(r"(/v1)?/datasets/[^/]+/plans/[^/]+")
LARGEST_PLAN_BYTES = 8 * 1024 * 1024
"""Of an uploaded plans.json; those of the planner have some ten thousand."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names under which this machine calls itself. Any other in the Host header means that a web page has let
its own name point here, to speak through a visitor's browser."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a client may call its request; anything else gets an id of ours."""

SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""On every answer that does not say otherwise."""


class Guard:
    """Middleware around the whole application; nothing of a refused request's body is read."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or let it pass and see that it gets an answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = _request_name(headers)
        request_id.set(name)
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                outgoing = MutableHeaders(scope=message)
                outgoing["X-Request-ID"] = name
                for header, value in SECURITY_HEADERS.items():
                    outgoing.setdefault(header, value)
            await send(message)

        try:
            self._require_allowed(scope, headers)
            body = receive if scope["path"] in UPLOAD_PATHS else _bounded(receive, headers, _limit_of(scope))
            await self._app(scope, body, send_guarded)
        except DomainError as error:
            await problems.from_error(error)(scope, receive, send_guarded)
        except ClientDisconnect:
            log.info("the client left before its request was complete")
        except Exception:
            log.exception("a request failed unexpectedly", extra={"method": scope["method"]})
            if has_begun:
                raise
            await problems.internal_error()(scope, receive, send_guarded)

    def _require_allowed(self, scope: Scope, headers: Headers) -> None:
        """Check where the request comes from, and whether its sender knows the key.

        Raises:
            ForbiddenError: A web page of another origin sent it.
            UnauthorizedError: The key is missing or wrong.
        """
        host = headers.get("host", "")
        if self._settings.is_loopback and _name_of(host) not in LOOPBACK_HOSTS | {self._settings.host}:
            raise ForbiddenError("the service is for this machine only; call it as 127.0.0.1 or localhost")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in SAFE_METHODS and urlsplit(origin).netloc != host:
            raise ForbiddenError("requests that a web page of another origin sends are refused")
        key = self._settings.api_key
        if key is None or scope["path"] in OPEN_PATHS:
            return
        if not _is_same(_sent_key(headers), key.get_secret_value()):
            raise UnauthorizedError(
                "the API key is missing or wrong; send it as `Authorization: Bearer …` or `X-API-Key`"
            )


def _limit_of(scope: Scope) -> int:
    """Return how many bytes the body may have."""
    return LARGEST_PLAN_BYTES if PLAN_PATH.fullmatch(scope["path"]) else LARGEST_BODY_BYTES


def _bounded(receive: Receive, headers: Headers, limit_bytes: int) -> Receive:
    """Return a body that ends with an error when it grows too long.

    Raises:
        TooLargeError: It is said to be too long.
    """
    sentence = f"the body is longer than {limit_bytes} bytes, which is all that this address takes"
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit_bytes:
        raise TooLargeError(sentence, limit_bytes=limit_bytes)
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            # Not an error of ours: the framework would take that for a body that is no JSON.
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        return message

    return receive_bounded


def _request_name(headers: Headers) -> str:
    sent = headers.get("x-request-id", "")
    return sent if CLIENT_REQUEST_ID.fullmatch(sent) else uuid4().hex


def _name_of(host: str) -> str:
    """Return the host of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _sent_key(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _is_same(sent: str, expected: str) -> bool:
    """Compare in a time that tells nothing of either."""
    first, second = (sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (sent, expected))
    return hmac.compare_digest(first, second)
