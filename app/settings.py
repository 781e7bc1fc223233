"""Settings of the service; the only module that reads the environment."""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

GIB = 1024**3

PREFIX = "SEG_"
"""Of the environment variables."""


BROKER_URL = re.compile(r"rediss?://[^/?#\s]+(/\d+)?(\?ssl_\w+=[^&\s]+(&ssl_\w+=[^&\s]+)*)?")
"""What Celery and the Redis client both understand in the same way."""

BROKER_EXAMPLE = "redis://:password@host:6379/0"


class Settings(BaseSettings):
    """Everything a deployment may choose, from the environment (prefix SEG_); docs/settings.md explains each."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Path("nnunet-data")
    """Folder that holds the database (laptop mode), the object store and the workspace."""
    store_dir: Path | None = None
    """Folder of the object store, the same for every process of the service; None: in the data folder."""
    workspace_dir: Path | None = None
    """Scratch folder of this machine; everything in it can be made again. None: in the data folder."""
    database_url: str | None = None
    """None: SQLite in the data folder."""
    broker_url: str | None = None
    """Redis that carries messages to Celery workers; None: local dispatchers poll the database."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free port."""
    api_key: SecretStr | None = Field(default=None, min_length=8)
    """Required for any address but loopback."""
    log_format: Literal["plain", "json"] = "plain"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_upload_gib: float = Field(default=20, gt=0)
    max_archive_files: int = Field(default=200_000, ge=1)
    max_unpacked_gib: float = Field(default=200, gt=0)
    max_compression_ratio: float = Field(default=200, gt=1)
    lease_seconds: float = Field(default=30, gt=0)
    heartbeat_seconds: float = Field(default=1, gt=0)
    """How often a worker renews its lease, writes progress and looks whether its job was asked to stop."""
    max_crashes: int = Field(default=3, ge=1)
    """A job whose worker or child dies so often without coming further has failed: it would kill the next."""
    checkpoint_seconds: float = Field(default=300, gt=0)
    """How often a training's checkpoint is copied to the object store; it is on local disk after each epoch."""
    poll_seconds: float = Field(default=0.2, gt=0)
    """How often a local dispatcher looks for work."""
    stop_grace_seconds: float = Field(default=60, gt=0)
    """Between asking a child to stop and killing it."""
    max_wait_seconds: float = Field(default=60, ge=0)
    """Upper limit of `Prefer: wait=N`."""
    model_cache_gib: float = Field(default=4, gt=0)
    """Memory for models that the predict lane keeps warm."""
    workspace_gib: float = Field(default=200, gt=0)
    """What the workspace keeps for jobs to come, beside what running ones use."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of a job's arithmetic; None: one per core."""
    processes_per_training: int = Field(default=1, ge=1, le=64)
    """Processes that train a fold together, each on a GPU of its own."""

    @field_validator("broker_url")
    @classmethod
    def _name_a_redis(cls, url: str | None) -> str | None:
        """Refuse what would fail only when the first job is announced."""
        if url is not None and not BROKER_URL.fullmatch(url):
            raise ValueError(f"must be like {BROKER_EXAMPLE}, where the last number is Redis's database")
        return url

    @model_validator(mode="after")
    def _need_key_beyond_loopback(self) -> Self:
        if not self.is_loopback and self.api_key is None:
            raise ValueError(
                f"refusing to listen on {self.host} without an API key: set SEG_API_KEY, or bind to 127.0.0.1"
            )
        if self.heartbeat_seconds >= self.lease_seconds:
            raise ValueError("heartbeat_seconds must be shorter than lease_seconds")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def resolved_database_url(self) -> str:
        """The database, by default a file in the data folder."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'service.db').resolve()}"

    @property
    def resolved_store_dir(self) -> Path:
        """Where objects are kept."""
        return (self.store_dir or self.data_dir / "store").resolve()

    @property
    def resolved_workspace_dir(self) -> Path:
        """Where work in progress lies."""
        return (self.workspace_dir or self.data_dir / "workspace").resolve()

    @property
    def max_upload_bytes(self) -> int:
        """Upper limit of one request's files."""
        return int(self.max_upload_gib * GIB)

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that shall read these very settings."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        secrets = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }
        return dict(os.environ) | {PREFIX + name.upper(): text for name, text in secrets.items()}  # noqa: TID251

    def child_environment(self) -> dict[str, str]:
        """Return the environment of a process that computes: none of these settings, so no secret either.

        Idle threads sleep instead of spinning: on cores that a training and a prediction share, spinning
        makes both up to ten times slower (own measurement: 7.3 s against 0.8 s for one small image).
        """
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}  # noqa: TID251
        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return {"OMP_WAIT_POLICY": "PASSIVE"} | inherited | threads
