"""A real uvicorn in a thread, started once; each test puts its application behind it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send


class Switch:
    """Hands each request to the application of the running test."""

    def __init__(self) -> None:
        self.apps: list[FastAPI] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.apps[-1](scope, receive, send)


@cache
def server() -> tuple[Switch, str]:
    """Start the server; it ends with the process."""
    switch = Switch()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(switch, log_config=None, access_log=False, lifespan="off"))
    threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not running.started:
        time.sleep(0.005)
    return switch, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application; yield its address."""
    switch, address = server()
    switch.apps.append(app)
    try:
        yield address
    finally:
        switch.apps.remove(app)
        app.state.resources.sessions.kw["bind"].dispose()
