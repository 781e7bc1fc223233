"""A stored file as an answer, unless the client has it already."""

from fastapi import Request, Response
from fastapi.responses import FileResponse

from app.services.resources import ResultFile


def sent_file(request: Request, found: ResultFile, name: str, disposition: str) -> Response:
    """Send a file under a name, `inline` to be looked at or as an `attachment`."""
    headers = {"ETag": f'"{found.sha256}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", "") and request.method == "GET":
        return Response(status_code=304, headers=headers)
    return FileResponse(
        found.path,
        media_type=found.media_type,
        filename=name + found.ending,
        content_disposition_type=disposition,
        headers=headers,
    )
