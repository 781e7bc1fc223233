"""Errors as application/problem+json (RFC 9457); the only place that knows status codes of errors."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from app.api import wording
from app.db.base import is_outage
from app.errors import (
    ConflictError,
    CrashedError,
    ForbiddenError,
    NotAcceptableError,
    NotFoundError,
    PreconditionError,
    StorageFullError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaError,
)
from app.jobs import INTERNAL_ERROR, problem_document, problem_of
from app.log import request_id
from app.storage import StoreError
from core.errors import DomainError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[str, HTTPStatus] = {
    UnauthorizedError.kind: HTTPStatus.UNAUTHORIZED,
    ForbiddenError.kind: HTTPStatus.FORBIDDEN,
    NotFoundError.kind: HTTPStatus.NOT_FOUND,
    NotAcceptableError.kind: HTTPStatus.NOT_ACCEPTABLE,
    ConflictError.kind: HTTPStatus.CONFLICT,
    PreconditionError.kind: HTTPStatus.PRECONDITION_FAILED,
    TooLargeError.kind: HTTPStatus.CONTENT_TOO_LARGE
    if hasattr(HTTPStatus, "CONTENT_TOO_LARGE")
    else HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaError.kind: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    CrashedError.kind: HTTPStatus.INTERNAL_SERVER_ERROR,
    StoreError.kind: HTTPStatus.INTERNAL_SERVER_ERROR,
    INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
    UnavailableError.kind: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFullError.kind: HTTPStatus.INSUFFICIENT_STORAGE,
}
"""Kind → status; every other kind says that what was sent cannot be used."""

HEADERS: Mapping[HTTPStatus, Mapping[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "5"},
}

SHOWN_ERRORS = 100
"""So many fields of an invalid request are named; a request can have more."""


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(DomainError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(PoolTimeoutError, _database_error)  # No connection became free.


def from_error(error: DomainError) -> JSONResponse:
    """Answer an error that was raised on purpose."""
    return from_document(problem_of(error))


def from_document(document: Mapping[str, Any]) -> JSONResponse:
    """Answer the problem document of a job: the same words, with the status that its kind has."""
    status = STATUS.get(str(document.get("code")), HTTPStatus.UNPROCESSABLE_ENTITY)
    return _response(status, document)


def internal_error() -> JSONResponse:
    """Answer a bug of ours; its text is in the log under the request's id."""
    detail = "the service made a mistake; its log tells more under this request_id"
    return from_document(problem_document(INTERNAL_ERROR, detail))


def _response(
    status: HTTPStatus, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    content = {**document, "status": status.value, "request_id": request_id.get()}
    return JSONResponse(
        content,
        status_code=status.value,
        media_type=MEDIA_TYPE,
        headers={**HEADERS.get(status, {}), **(headers or {})},
    )


def _domain_error(_request: Request, error: Any) -> JSONResponse:
    return from_error(error)


def _validation_error(_request: Request, error: Any) -> JSONResponse:
    """Name every field that is wrong, what it must be, and what was given instead."""
    found = wording.faults_of(error.errors()[:SHOWN_ERRORS])
    detail = "; ".join(wording.sentence(field, message) for field, message in found)
    document = problem_document("invalid-request", f"the request cannot be used as it is: {detail}")
    errors = [{"field": field, "message": message} for field, message in found]
    return _response(HTTPStatus.UNPROCESSABLE_ENTITY, {**document, "errors": errors})


def _http_exception(_request: Request, error: Any) -> JSONResponse:
    """Answer what the framework refuses: an unknown address, a wrong method, a body that is no JSON."""
    status = HTTPStatus(error.status_code)
    sentences = {
        HTTPStatus.NOT_FOUND: "there is nothing at this address",
        HTTPStatus.METHOD_NOT_ALLOWED: "this address does not take this method",
    }
    is_too_large = status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = TooLargeError.kind if is_too_large else status.phrase.lower().replace(" ", "-")
    detail = sentences.get(status, str(error.detail))
    return _response(status, problem_document(kind, detail), error.headers)


def _database_error(_request: Request, error: Any) -> JSONResponse:
    """Say that the database does not answer, or that its disk is full; anything else is a bug of ours."""
    if not is_outage(error):
        log.error("the database refused a statement", exc_info=error)
        return internal_error()
    log.warning("the database does not answer", extra={"error": repr(getattr(error, "orig", error))})
    if "is full" in str(error):
        return from_error(StorageFullError("the disk of the service is full; free some space and try again"))
    return from_error(UnavailableError("the database does not answer; try again in a moment"))
