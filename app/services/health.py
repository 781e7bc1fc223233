"""Whether the service can do its work: database, schema, object store, queue."""

import logging
from collections.abc import Callable, Mapping

from pydantic import JsonValue
from sqlalchemy import text

from app.db.base import transaction
from app.db.migrate import is_at_head
from app.errors import UnavailableError
from app.services.resources import Resources

log = logging.getLogger(__name__)


def check(resources: Resources) -> Mapping[str, str]:
    """Try each thing that every request needs.

    Raises:
        UnavailableError: Something does not answer; all that fail are named.
    """
    checks: Mapping[str, Callable[[Resources], None]] = {
        "database": _database,
        "migrations": _migrations,
        "store": _store,
        "queue": _queue,
    }
    failed: list[JsonValue] = []
    for name, run in checks.items():
        try:
            run(resources)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is that it does not work
            log.warning("a health check failed", extra={"check": name, "error": repr(error)})
            failed.append(name)
    if failed:
        raise UnavailableError(f"not ready: {', '.join(map(str, failed))}; the log tells more", failed=failed)
    return dict.fromkeys(checks, "ok")


def _database(resources: Resources) -> None:
    with transaction(resources.readers) as session:
        session.execute(text("SELECT 1"))


def _migrations(resources: Resources) -> None:
    with transaction(resources.readers) as session:
        if not is_at_head(session.connection()):
            raise UnavailableError("the schema is not that of this release; run `nnunet-service migrate`")


def _store(resources: Resources) -> None:
    resources.store.require_writable()


def _queue(resources: Resources) -> None:
    resources.queue.require_reachable()
