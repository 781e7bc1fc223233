"""Whether the service can do its work: database, schema, object store, queue."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import JsonValue
from sqlalchemy import text

from app import alive
from app.db.base import transaction
from app.db.migrate import is_at_head
from app.errors import UnavailableError
from app.jobs import Lane
from app.services.resources import Resources

log = logging.getLogger(__name__)

OK = "ok"

NO_WORKER = "no worker"
"""None has shown itself of late; jobs of the lane wait for one."""


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
    return dict.fromkeys(checks, OK)


def lanes(resources: Resources, folder: Path) -> Mapping[str, str]:
    """Say of each lane whether a worker serves it; without one, its jobs wait, but nothing is broken.

    Args:
        resources: Of the service.
        folder: Where workers of this machine show themselves, for a queue that does not know.
    """
    served = resources.queue.served()
    if served is None:
        served = alive.served(folder, time.time())
    return {lane.value: OK if lane in served else NO_WORKER for lane in Lane}


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
