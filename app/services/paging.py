"""Lists in pages: newest first, by a cursor that stays right while rows are added."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.errors import RequestError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list a client wants."""

    limit: int
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some entries of a list, and where the next ones begin."""

    items: Sequence[T]
    next_cursor: str | None


def read_page(session: Session, query: Select[Any], table: Any, request: PageRequest) -> Page[Any]:
    """Run a query over one table, newest first.

    Args:
        session: To read with.
        query: Selects the table's rows.
        table: A class with `created_at` and `id`.
        request: Which page.

    Raises:
        RequestError: The cursor is not one that we gave.
    """
    if request.cursor is not None:
        query = query.where(tuple_(table.created_at, table.id) < _position(table, request.cursor))
    rows = session.scalars(
        query.order_by(table.created_at.desc(), table.id.desc()).limit(request.limit + 1)
    ).all()
    items = rows[: request.limit]
    more = len(rows) > request.limit
    return Page(items, _cursor(items[-1].created_at, items[-1].id) if more else None)


def _cursor(created_at: datetime, row_id: UUID) -> str:
    text = json.dumps([created_at.isoformat(), row_id.hex])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(table: Any, cursor: str) -> Any:
    """Return where a cursor points, as a row value."""
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        moment, row_id = json.loads(text)
        # In UTC already here: a moment at either end of the calendar has none.
        position = (datetime.fromisoformat(moment).astimezone(UTC), UUID(row_id))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RequestError("this cursor is not one that the service gave; start without one") from error
    return tuple_(*position, types=[table.created_at.type, table.id.type])
