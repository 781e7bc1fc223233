"""`nnunet-service`: up (supervises), api, worker, migrate, health; starts processes, imports none of them."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from app import alive, log, supervisor
from app.db.migrate import HEAD, upgrade
from app.jobs import Lane
from app.settings import Settings
from core.domain.record import describe
from core.errors import DomainError

main = typer.Typer(
    help="Train nnU-Net v2 segmentation networks on your own images and use them, over REST.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

HostOption = Annotated[str | None, typer.Option(help="Address to listen on; SEG_HOST, else 127.0.0.1.")]
PortOption = Annotated[int | None, typer.Option(help="0 takes a free one; SEG_PORT, else 8000.")]
FolderOption = Annotated[
    Path | None, typer.Option(help="Holds database, files and workspace; SEG_DATA_DIR, else nnunet-data.")
]
LanesOption = Annotated[str, typer.Option(help="Whose jobs to run, comma separated: cpu, train, predict.")]

ALL_LANES = ",".join(Lane)


@main.command()
def up(host: HostOption = None, port: PortOption = None, data_dir: FolderOption = None) -> None:
    """Run the whole service on this machine: migrate, then the API and one worker per lane."""
    with _plain_errors():
        settings = _settings(host=host, port=port, data_dir=data_dir)
        log.configure(settings.log_format, settings.log_level)
        with supervisor.sole_user(settings.data_dir):
            free = supervisor.free_port(settings.host, settings.port)
            settings = settings.model_copy(update={"port": free})
            upgrade(settings.resolved_database_url)
            commands = {"api": _api_command()}
            commands |= {f"worker-{lane}": _worker_command(lane) for lane in Lane}
            supervisor.supervise(settings, commands, lambda: _announce(settings))


@main.command()
def api(host: HostOption = None, port: PortOption = None, data_dir: FolderOption = None) -> None:
    """Serve HTTP; workers are started on their own."""
    with _plain_errors():
        _become(_api_command(), _settings(host=host, port=port, data_dir=data_dir))


@main.command()
def worker(lanes: LanesOption = ALL_LANES, data_dir: FolderOption = None) -> None:
    """Run jobs of some lanes, one at a time."""
    with _plain_errors():
        _become(_worker_command(lanes), _settings(data_dir=data_dir))


@main.command()
def migrate(
    revision: Annotated[str, typer.Option(help="Where to; the newest by default.")] = HEAD,
    data_dir: FolderOption = None,
) -> None:
    """Bring the database to the schema of this release."""
    with _plain_errors():
        settings = _settings(data_dir=data_dir)
        log.configure(settings.log_format, settings.log_level)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        upgrade(settings.resolved_database_url, revision)
        typer.echo("the database has the schema of this release")


@main.command()
def health(
    lanes: Annotated[
        str | None, typer.Option(help="Ask the worker that serves exactly these here; else the API.")
    ] = None,
    data_dir: FolderOption = None,
) -> None:
    """Say whether the API, or a worker, of this machine is well; the exit code is 1 if not."""
    with _plain_errors():
        settings = _settings(data_dir=data_dir)
        if lanes is None:
            alive.require_answer(settings)
            typer.echo("the API is ready")
        else:
            folder = settings.resolved_workspace_dir / alive.FOLDER_NAME
            alive.require_beat(alive.beat_file(folder, lanes.split(",")), time.time())
            typer.echo(f"the worker of {lanes} is alive")


def _settings(**given: Any) -> Settings:
    """Return the settings of the environment, overridden by what stands on the command line."""
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    return settings.model_copy(update={"data_dir": settings.data_dir.resolve()})


def _api_command() -> list[str]:
    return [sys.executable, "-m", "app.main"]


def _worker_command(lanes: str) -> list[str]:
    return [sys.executable, "-m", "worker.main", "--lanes", lanes]


def _become(command: list[str], settings: Settings) -> None:
    """Replace this process by another of ours, so that signals reach it directly."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.execve(command[0], command, settings.environment())  # noqa: S606 - our own modules


def _announce(settings: Settings) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"nnU-Net Service is ready at http://{host}:{settings.port}")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print what a person can mend as one sentence, without a traceback."""
    try:
        yield
    except ValidationError as error:
        typer.echo(f"nnunet-service: the settings cannot be used: {describe(error)}", err=True)
        raise typer.Exit(2) from error
    except OperationalError as error:
        typer.echo(f"nnunet-service: the database does not answer: {error.orig}", err=True)
        raise typer.Exit(1) from error
    except (DomainError, OSError) as error:
        typer.echo(f"nnunet-service: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    main()
