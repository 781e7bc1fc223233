"""The database's own clock, the one clock that all workers share."""

from datetime import datetime
from typing import Any

from sqlalchemy import literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from app.db.base import UtcDateTime


class Clock(FunctionElement[datetime]):
    """The time of the database plus some seconds, finer than a second, advancing within a transaction."""

    name = "clock"
    type = UtcDateTime()
    inherit_cache = True


def clock(seconds: float = 0.0) -> Clock:
    """Return an SQL expression for the database's time in so many seconds."""
    return Clock(literal(float(seconds)))


@compiles(Clock, "sqlite")
def _sqlite(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    """Write it as SQLAlchemy stores a datetime there, so that texts compare as times."""
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


@compiles(Clock, "postgresql")
def _postgresql(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    """Use the clock itself, not the transaction's beginning."""
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"
