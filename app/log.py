"""Logging set-up of every process: one line per event, with the request and job that it belongs to."""

import json
import logging
import sys
from contextvars import ContextVar
from typing import Literal

LogFormat = Literal["plain", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "request_id",
    "job_id",
    "taskName",
}
"""What every log record has; anything else came from `extra`."""

QUIET = ("httpx", "multipart", "python_multipart", "uvicorn", "alembic.runtime", "celery")
"""Libraries whose INFO tells nothing of a job."""


class ContextFilter(logging.Filter):
    """Adds the ids of the request and of the job."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark every record; refuse none."""
        record.request_id = request_id.get()
        record.job_id = job_id.get()
        return True


class LineFormatter(logging.Formatter):
    """Writes time, level, logger, sentence and values on one line; a newline in a value stays inside it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback below it if there is one."""
        values = {key: value for key, value in _fields(record).items() if value is not None}
        shown = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in values.items())
        sentence = json.dumps(record.getMessage(), ensure_ascii=False)[1:-1]
        time = self.formatTime(record)
        line = f"{time} {record.levelname} {record.name}: {sentence} {shown}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as text."""
        values = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


def configure(style: LogFormat, level: str = "INFO") -> None:
    """Send all logging of this process to stderr in one style."""
    stream = logging.StreamHandler(sys.stderr)
    stream.addFilter(ContextFilter())
    stream.setFormatter(JsonFormatter() if style == "json" else LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the ids, if any, and what the caller gave as `extra`."""
    ids = {"request_id": request_id.get(), "job_id": job_id.get()}
    extra = {key: value for key, value in vars(record).items() if key not in STANDARD}
    return {key: value for key, value in ids.items() if value is not None} | extra
