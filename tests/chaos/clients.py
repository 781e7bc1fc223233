"""Clients as they really are: every request has a key, what goes unanswered is sent again, work is followed."""

import hashlib
import random
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal
from uuid import uuid4

import httpx

Json = dict[str, Any]

Noun = Literal["dataset", "training", "prediction"]

ANSWER_SECONDS = 30.0
"""Longest wait for one answer."""

OUTAGE_SECONDS = 150.0
"""So long a client sends the same request again before it gives up."""

PATIENCE_SECONDS = 480.0
"""So long a client waits for the end of its job."""

POLL_SECONDS = 0.5

FINAL = frozenset({"succeeded", "failed", "canceled"})

HELD = frozenset({"paused", "pausing"})


class GivenUpError(Exception):
    """A client got no answer that it can work with."""


@dataclass(slots=True)
class Told:
    """What a client was told, and what must come of it."""

    noun: Noun
    key: str
    """Its Idempotency-Key."""
    id: str
    job_id: str
    ends: str = "succeeded"
    """State of the job in the end."""
    dataset_state: str = "ready"
    """Of a dataset, in the end."""
    sha256: str | None = None
    """Of the segmentation that was loaded."""


@dataclass(slots=True)
class Ledger:
    """What all clients were told, and what they could not understand."""

    told: list[Told] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    requests: int = 0
    repeated: int = 0
    """Requests that were sent again because no answer came, or one that the service is away."""
    ended: int = 0
    lock: Lock = field(default_factory=Lock)


class Client:
    """One of the service's clients.

    Args:
        address: Of the service.
        ledger: Shared by all clients.
        rng: Of this client alone.
    """

    def __init__(self, address: str, ledger: Ledger, rng: random.Random) -> None:
        self.rng = rng
        self._http = httpx.Client(base_url=address, timeout=ANSWER_SECONDS)
        self._ledger = ledger

    def close(self) -> None:
        self._http.close()

    def create(self, noun: Noun, path: str, **request: Any) -> Told:
        """Send a creating request until it is answered; the key sees to it that it is done once."""
        key = str(uuid4())
        headers = {**request.pop("headers", {}), "Idempotency-Key": key}
        response = self._send("POST", path, headers=headers, **request)
        if response.status_code not in (200, 202):
            raise GivenUpError(f"POST {path}: {response.status_code} {response.text}")
        answer = response.json()
        told = Told(noun=noun, key=key, id=answer["id"], job_id=answer["job_id"])
        with self._ledger.lock:
            self._ledger.told.append(told)
        return told

    def get(self, path: str) -> Json:
        """Read a resource."""
        answer: Json = self._read(path).json()
        return answer

    def digest(self, path: str) -> str:
        """Load a file, and return its SHA-256."""
        return hashlib.sha256(self._read(path).content).hexdigest()

    def steer(self, job_id: str, verb: str) -> bool:
        """Ask something of a job; return whether it was granted.

        A refusal (409) may mean that an earlier request was granted whose answer was lost.
        """
        response = self._send("POST", f"/jobs/{job_id}/{verb}")
        if response.status_code not in (200, 202, 409):
            raise GivenUpError(f"{verb}: {response.status_code} {response.text}")
        return response.status_code != 409

    def state(self, job_id: str) -> str:
        """Return how a job stands."""
        return str(self.get(f"/jobs/{job_id}")["state"])

    def end_of(self, told: Told) -> Json:
        """Follow a job until it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (job := self.get(f"/jobs/{told.job_id}"))["state"] not in FINAL:
            if time.monotonic() > deadline:
                raise GivenUpError(f"{told.noun} {told.id}: its job {told.job_id} is still {job['state']}")
            time.sleep(POLL_SECONDS)
        with self._ledger.lock:
            self._ledger.ended += 1
        return job

    def _read(self, path: str) -> httpx.Response:
        response = self._send("GET", path)
        if response.status_code != 200:
            raise GivenUpError(f"GET {path}: {response.status_code} {response.text}")
        return response

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, again while nobody answers or the service says that it is away."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        last = ""
        while time.monotonic() < deadline:
            self._count("requests")
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                if response.status_code < 500:
                    return response
                last = f"{response.status_code} {response.text}"
            self._count("repeated")
            time.sleep(self.rng.uniform(0.3, 1.5))
        raise GivenUpError(f"{method} {path} went unanswered for {OUTAGE_SECONDS:.0f} s; the last: {last}")

    def _count(self, name: Literal["requests", "repeated"]) -> None:
        with self._ledger.lock:
            setattr(self._ledger, name, getattr(self._ledger, name) + 1)
