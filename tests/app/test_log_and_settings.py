"""How processes log, and what they read from the environment."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app import log
from app.log import job_id
from app.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_json_line_holds_sentence_values_and_job(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("json")
    token = job_id.set("42")

    logging.getLogger("x").info("epoch finished", extra={"epoch": 3})
    job_id.reset(token)

    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["epoch"], line["job_id"]) == ("epoch finished", 3, "42")
    assert "request_id" not in line


def test_a_newline_in_a_value_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("plain")

    logging.getLogger("x").warning("odd %s", "a\nERROR root: forged", extra={"case": "b\nc"})

    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("style", ["plain", "json"])
def test_a_traceback_is_kept(capsys: pytest.CaptureFixture[str], style: log.LogFormat) -> None:
    log.configure(style)

    try:
        int("reason")
    except ValueError:
        logging.getLogger("x").exception("it failed")

    assert "ValueError: invalid literal" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["uvicorn", "celery"])
def test_of_libraries_only_warnings_are_told(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("plain")

    logging.getLogger(f"{library}.inner").info("a message came")
    logging.getLogger(f"{library}.inner").warning("the connection is lost")

    told = capsys.readouterr().err
    assert "a message came" not in told
    assert "the connection is lost" in told


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_PORT", "1234")
    monkeypatch.setenv("SEG_API_KEY", "a-long-secret")

    settings = Settings()

    assert settings.port == 1234
    assert "a-long-secret" not in repr(settings)


def test_another_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(port=5, api_key=SecretStr("a-long-secret"), data_dir=Path("/x y"), max_upload_gib=0.5)

    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert Settings() == settings


@pytest.mark.parametrize(
    "values",
    [
        {"port": 70_000},
        {"api_key": "short"},
        {"heartbeat_seconds": 30, "lease_seconds": 30},
        {"log_level": "LOUD"},
        {"unknown": 1},
        {"max_upload_gib": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**values)  # type: ignore[arg-type]
