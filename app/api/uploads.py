"""Files in a request's body, raw or multipart, streamed to the store's disk while they are hashed."""

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from app.errors import RequestError, TooLargeError, UnsupportedMediaError
from app.storage import CHUNK_BYTES, Incoming, ObjectStore

MULTIPART = "multipart/form-data"

ZIP_TYPES = frozenset({"application/zip", "application/x-zip-compressed", "application/octet-stream"})
"""As which a raw body that is a zip may be declared."""

LARGEST_TEXT_BYTES = 1000
"""Of a form field that is no file."""

MOST_PARTS = 256
"""Of one form; a case has a few channels."""

FORM_OVERHEAD_BYTES = 1024 * 1024
"""So much longer than its files a form may be."""


@dataclass(frozen=True, slots=True)
class Part:
    """One received file."""

    field: str
    name: str | None
    """As the client sent it, possibly a whole path; only its ending may be used."""
    file: Incoming


@dataclass(frozen=True, slots=True)
class Upload:
    """All that came in one body."""

    parts: list[Part] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a route takes.

    Args:
        raw_field: As which field a body counts that is no form.
        files: Pattern of the form's file fields.
        texts: The form's other fields.
        hint: What to send, for error sentences.
    """

    raw_field: str
    files: re.Pattern[str]
    texts: Collection[str]
    hint: str


def zip_body() -> dict[str, Any]:
    """Describe, for OpenAPI, a body that is a zip, as it is or in a form."""
    schema = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": schema}}
    content = {"multipart/form-data": {"schema": form}, "application/zip": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def require_zip_type(request: Request, expected: Expected) -> None:
    """Refuse a body that is declared as something else than a zip or a form.

    Raises:
        UnsupportedMediaError: It is.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ZIP_TYPES | {MULTIPART}:
        raise UnsupportedMediaError(
            f"a body of type {media_type or 'unknown'} is not taken; {expected.hint}"
            " (curl: -H 'Content-Type: application/zip')"
        )


@asynccontextmanager
async def received(
    request: Request, store: ObjectStore, limit_bytes: int, expected: Expected
) -> AsyncIterator[Upload]:
    """Stream the body to disk; on the way out, remove what nobody adopted.

    Raises:
        UnsupportedMediaError: The body is compressed as a whole, or its type is not taken.
        TooLargeError: It is longer than the limit.
        StorageFullError: The disk is full.
        RequestError: It is empty, cut off, or has fields that are not taken.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    _require_plain(request, limit_bytes)
    upload = Upload()
    try:
        if media_type.decode("latin-1") == MULTIPART:
            await _receive_form(
                request, store, limit_bytes, expected, (upload, options.get(b"boundary", b""))
            )
        else:
            await _receive_raw(request, store, limit_bytes, expected, upload)
        if not any(part.file.size_bytes for part in upload.parts):
            raise RequestError(f"no file came; {expected.hint}")
        yield upload
    finally:
        for part in upload.parts:
            part.file.discard()


def _require_plain(request: Request, limit_bytes: int) -> None:
    """Refuse early what would be refused late."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("send the file as it is, without Content-Encoding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit_bytes + FORM_OVERHEAD_BYTES:
        raise TooLargeError(
            f"the upload is larger than the limit of {limit_bytes} bytes", limit_bytes=limit_bytes
        )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in pieces large enough to be worth a change of thread."""
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


async def _receive_raw(
    request: Request, store: ObjectStore, limit_bytes: int, expected: Expected, upload: Upload
) -> None:
    name = _name_in(request.headers.get("content-disposition", ""))
    file = await run_in_threadpool(store.receive, limit_bytes)
    upload.parts.append(Part(expected.raw_field, name, file))
    async for chunk in _chunks(request):
        await run_in_threadpool(file.write, chunk)


async def _receive_form(
    request: Request,
    store: ObjectStore,
    limit_bytes: int,
    expected: Expected,
    target: tuple[Upload, bytes],
) -> None:
    upload, boundary = target
    if not boundary:
        raise RequestError("the form's Content-Type names no boundary")
    form = _Form(store, limit_bytes, expected, upload)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.take,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        async for chunk in _chunks(request):
            await run_in_threadpool(parser.write, chunk)
    except FormParserError as error:
        raise RequestError(f"the form is damaged; {expected.hint}") from error
    if not form.is_complete:
        raise RequestError("the form has no end: the upload was cut off; send it again")


class _Form:
    """Takes the parts of a multipart body as the parser finds them."""

    def __init__(self, store: ObjectStore, limit_bytes: int, expected: Expected, upload: Upload) -> None:
        self.is_complete = False
        self._store = store
        self._left = limit_bytes
        self._limit = limit_bytes
        self._expected = expected
        self._upload = upload
        self._parts = 0
        self._name = b""
        self._value = b""
        self._disposition = b""
        self._file: Incoming | None = None
        self._text_field = ""
        self._text = b""

    def begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise RequestError(f"the form has more than {MOST_PARTS} parts")
        self._disposition = self._text = b""
        self._file = None

    def header_field(self, chunk: bytes, start: int, end: int) -> None:
        self._name += chunk[start:end]

    def header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        """Decide from its name where a part goes."""
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._expected.files.fullmatch(name):
            self._file = self._store.receive(self._limit)
            self._upload.parts.append(Part(name, _name_in(self._disposition), self._file))
        elif name in self._expected.texts and name not in self._upload.texts:
            self._text_field = name
        else:
            raise RequestError(
                f"the form's field {name[:100]!r} is unknown or came twice; {self._expected.hint}"
            )

    def take(self, chunk: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._left -= end - start
            if self._left < 0:
                raise TooLargeError(
                    f"the upload is larger than the limit of {self._limit} bytes", limit_bytes=self._limit
                )
            self._file.write(chunk[start:end])
            return
        self._text += chunk[start:end]
        if len(self._text) > LARGEST_TEXT_BYTES:
            raise RequestError(
                f"the form's field {self._text_field!r} is longer than {LARGEST_TEXT_BYTES} bytes"
            )

    def end(self) -> None:
        if self._file is None:
            self._upload.texts[self._text_field] = self._text.decode("utf-8", "replace")

    def finish(self) -> None:
        self.is_complete = True


def _name_in(disposition: str | bytes) -> str | None:
    """Return the file name of a Content-Disposition header."""
    _, options = parse_options_header(disposition)
    name = options.get(b"filename")
    return None if name is None else name.decode("utf-8", "replace")
