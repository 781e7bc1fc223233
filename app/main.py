"""create_app(settings): the only place that wires settings, database, store, queue and routes together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from app import log
from app.api import (
    aliases,
    datasets,
    events,
    exports,
    health,
    jobs,
    models,
    plans,
    predictions,
    problems,
    trainings,
)
from app.api.deps import VERSION_PREFIX
from app.api.guard import Guard
from app.db.base import open_engine, open_readers, open_sessions
from app.queue import open_queue
from app.services.resources import Resources
from app.settings import Settings
from app.storage import LocalStore

logger = logging.getLogger(__name__)

ROUTERS = tuple(
    room.router
    for room in (datasets, plans, trainings, jobs, events, aliases, models, exports, predictions, health)
)

SHUTDOWN_SECONDS = 5
"""How long open requests may take to end when the process is asked to."""


def create_app(settings: Settings) -> FastAPI:
    """Return the application; nothing happens before its first request."""
    engine = open_engine(settings.resolved_database_url)
    store = LocalStore(settings.resolved_store_dir)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        if settings.api_key is None:
            logger.warning("no API key is set: everybody on this machine may use the service")
        store.clean_incoming()
        yield
        engine.dispose()

    app = FastAPI(
        title="nnU-Net Service",
        summary="Train nnU-Net v2 segmentation networks on your own images and use them, over REST.",
        version="0.1.0",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.settings = settings
    app.state.resources = Resources(
        sessions=open_sessions(engine),
        readers=open_readers(engine),
        store=store,
        queue=open_queue(settings.broker_url),
    )
    for router in ROUTERS:
        app.include_router(router)
        app.include_router(router, prefix=VERSION_PREFIX, include_in_schema=False)
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    return app


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings()
    log.configure(settings.log_format, settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
