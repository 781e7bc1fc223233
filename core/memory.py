"""A limit on the memory that files read at the same time take together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Memory:
    """Bytes that the cases being read may take together; who needs more than is left waits.

    A case that is larger than all of it is read alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Take bytes, and give them back at the end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
