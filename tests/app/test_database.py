"""Databases for several processes, their clock, and the migrations."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from servers import PostgresServer
from sqlalchemy import Connection, Uuid, bindparam, column, inspect, select, table, text
from sqlalchemy.exc import IntegrityError, OperationalError

from app.db import migrate
from app.db.base import Base, JsonValue, UtcDateTime, open_engine, transaction
from app.db.clock import clock
from app.db.models import DatasetCase, Job
from app.services import following
from app.services.resources import Resources
from tests.app import playing

JSON_COLUMNS = ("folds", "channels", "labels", "files")
"""Of a model."""

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@SQLITE
def test_connections_are_set_up_for_several_processes(resources: Resources) -> None:
    with transaction(resources.readers) as session:
        found = [
            session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        ]

    assert found == ["wal", 1, 30_000, 1]


def test_a_reader_never_waits_for_a_writer(resources: Resources) -> None:
    submission = playing.upload(resources)

    with transaction(resources.sessions):
        start = time.monotonic()
        with transaction(resources.readers) as session:
            following.find(session, submission.job_id)
        seconds = time.monotonic() - start

    assert seconds < 1


def test_a_reader_cannot_be_overtaken_within_its_snapshot(resources: Resources) -> None:
    submission = playing.upload(resources)

    with transaction(resources.readers) as session:
        before = session.scalar(select(Job.state).where(Job.id == submission.job_id))
        playing.claim(resources.sessions)
        after = session.scalar(select(Job.state).where(Job.id == submission.job_id))

    assert before is after


def test_writers_queue_up(resources: Resources) -> None:
    for _ in range(20):
        playing.upload(resources)
    claims: list[object] = []

    def work() -> None:
        while (taken := playing.try_claim(resources.sessions)) is not None:
            claims.append(taken.job_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claims) == len(set(claims)) == 20


def test_the_databases_clock_is_finer_than_a_second_and_in_utc(resources: Resources) -> None:
    with transaction(resources.readers) as session:
        first = session.scalar(select(clock()))
        later = session.scalar(select(clock(90.5)))

    assert first is not None
    assert later is not None
    assert abs((first - datetime.now(UTC)).total_seconds()) < 5
    assert 90 < (later - first).total_seconds() < 95


def test_the_database_itself_refuses_what_makes_no_sense(resources: Resources) -> None:
    submission = playing.upload(resources)

    for statement in (
        "UPDATE job SET state = 'running'",
        "UPDATE dataset SET state = 'odd'",
        "INSERT INTO job_dependency SELECT id, dataset_id FROM job",
    ):
        with pytest.raises(IntegrityError), transaction(resources.sessions) as session:
            session.execute(text(statement))
    with pytest.raises(IntegrityError), transaction(resources.sessions) as session:
        session.add(DatasetCase(dataset_id=submission.job_id, case_id="x", shape=[], spacing=[]))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'service.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    yield server.create_database("empty")
    server.drop_database("empty")


def test_migrations_lead_from_nothing_to_the_models_and_back(empty_url: str) -> None:
    url = empty_url
    engine = open_engine(url)

    migrate.upgrade(url)
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        assert migrate.is_at_head(connection)
    command.check(migrate.configuration(url))
    migrate.upgrade(url)
    migrate.downgrade(url, migrate.NOTHING)

    assert tables == set(Base.metadata.tables) | {"alembic_version"}
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
        assert not migrate.is_at_head(connection)
    engine.dispose()


def test_a_migration_keeps_what_is_there(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0001")
    engine = open_engine(empty_url)
    rows = ("job", "job_event", "epoch", "job_dependency")
    with engine.begin() as connection:
        _insert_a_running_training(connection)

    def counts() -> list[int]:
        with engine.connect() as connection:
            return [connection.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in rows]  # noqa: S608

    before = counts()
    migrate.upgrade(empty_url)
    with engine.connect() as connection:
        upgraded = connection.execute(
            text("SELECT kind, priority, reached FROM job ORDER BY priority, kind")
        ).fetchall()
    after = counts()
    migrate.downgrade(empty_url, "0001")

    assert before == after == counts() == [2, 2, 3, 1]
    assert [tuple(row) for row in upgraded] == [("preprocess", 6, 0), ("train", 9, 3)]
    engine.dispose()


def test_the_release_before_works_on_the_schema_of_this_one(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = open_engine(empty_url)
    ids = {"dataset": uuid4(), "plan": uuid4(), "job": uuid4()}
    moment = bindparam("now", datetime.now(UTC), type_=UtcDateTime())

    def run(statement: str) -> None:
        keys = [
            bindparam(name, value, type_=Uuid()) for name, value in ids.items() if f":{name}" in statement
        ]
        known = [*keys, moment] if ":now" in statement else keys
        with engine.begin() as connection:
            connection.execute(text(statement).bindparams(*known))

    run("INSERT INTO stored_object (key, sha256, size_bytes, created_at) VALUES ('a', '0', 1, :now)")
    run(
        "INSERT INTO dataset (id, name, version, state, archive_key, problems, created_at)"
        " VALUES (:dataset, 'Liver', 1, 'ready', 'a', '[]', :now)"
    )
    run(
        "INSERT INTO job (id, kind, lane, state, dataset_id, attempt, crashes, fence, done, total, note,"
        " created_at) VALUES (:job, 'plan', 'cpu', 'succeeded', :dataset, 1, 0, 1, 0, 0, '', :now)"
    )
    run("INSERT INTO job_event (job_id, at, after, note) VALUES (:job, :now, 'queued', '')")
    run(
        "INSERT INTO plan (id, dataset_id, name, origin, state, plans_key, configurations, job_id, created_at,"
        " updated_at) VALUES (:plan, :dataset, 'mine', 'planned', 'ready', 'a', '[]', :job, :now, :now)"
    )
    with engine.connect() as connection:
        notes = connection.scalar(text("SELECT notes FROM dataset"))
    run("DELETE FROM job WHERE dataset_id = :dataset")
    run("DELETE FROM dataset WHERE id = :dataset")

    assert notes in ("[]", [])
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM plan")) == 0
    engine.dispose()


def test_going_back_leaves_no_job_that_the_release_before_does_not_know(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        for kind in ("plan", "preprocess"):
            job_id = uuid4()
            connection.execute(
                text(
                    "INSERT INTO job (id, kind, lane, state, attempt, crashes, fence, done, total, note, created_at)"
                    " VALUES (:id, :kind, 'cpu', 'queued', 0, 0, 0, 0, 0, '', :now)"
                ).bindparams(
                    bindparam("id", job_id, type_=Uuid()),
                    bindparam("kind", kind),
                    bindparam("now", datetime.now(UTC), type_=UtcDateTime()),
                )
            )
            connection.execute(
                text(
                    "INSERT INTO job_event (job_id, at, after, note) VALUES (:id, :now, 'queued', '')"
                ).bindparams(
                    bindparam("id", job_id, type_=Uuid()),
                    bindparam("now", datetime.now(UTC), type_=UtcDateTime()),
                )
            )

    migrate.downgrade(empty_url, "0002")

    with engine.connect() as connection:
        kinds = [row[0] for row in connection.execute(text("SELECT kind FROM job"))]
        events = connection.scalar(text("SELECT count(*) FROM job_event"))
    assert (kinds, events) == (["preprocess"], 1)
    engine.dispose()


def test_going_back_leaves_no_object_that_only_plans_named(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = open_engine(empty_url)
    ids = {name: uuid4() for name in ("dataset", "training", "job", "first", "second", "third")}
    made = f"plan/{ids['job']}/1"
    keys = ["archive", "uploaded", "trained", f"{made}/plans.json", f"{made}/dataset_fingerprint.json"]

    def run(connection: Connection, statement: str, **values: object) -> None:
        moments = {"now": datetime.now(UTC)} if ":now" in statement else {}
        names = re.findall(r":(\w+)", statement)
        connection.execute(
            text(statement).bindparams(
                *(bindparam(name, ids[name], type_=Uuid()) for name in ids if name in names),
                *(bindparam(name, value, type_=UtcDateTime()) for name, value in moments.items()),
                *(bindparam(name, value) for name, value in values.items()),
            )
        )

    with engine.begin() as connection:
        for key in keys:
            statement = (
                "INSERT INTO stored_object (key, sha256, size_bytes, created_at) VALUES (:k, '0', 1, :now)"
            )
            run(connection, statement, k=key)
        run(
            connection,
            "INSERT INTO dataset (id, name, version, state, archive_key, fingerprint_key, problems, created_at)"
            " VALUES (:dataset, 'Liver', 1, 'ready', 'archive', :k, '[]', :now)",
            k=keys[4],
        )
        run(
            connection,
            "INSERT INTO training (id, name, dataset_id, request, plans_key, created_at)"
            " VALUES (:training, 'Liver', :dataset, '{}', 'trained', :now)",
        )
        run(
            connection,
            "INSERT INTO job (id, kind, lane, state, dataset_id, attempt, crashes, fence, done, total, note,"
            " created_at) VALUES (:job, 'plan', 'cpu', 'succeeded', :dataset, 1, 0, 1, 0, 0, '', :now)",
        )
        for name, key in (("first", "uploaded"), ("second", "trained"), ("third", keys[3])):
            run(
                connection,
                "INSERT INTO plan (id, dataset_id, name, origin, state, plans_key, configurations, created_at,"  # noqa: S608
                f" updated_at) VALUES (:{name}, :dataset, '{name}', 'uploaded', 'ready', :k, '[]', :now, :now)",
                k=key,
            )

    migrate.downgrade(empty_url, "0002")

    with engine.connect() as connection:
        left = {row[0] for row in connection.execute(text("SELECT key FROM stored_object"))}
    assert left == {"archive", "trained", keys[4]}
    engine.dispose()


def test_models_that_are_there_are_numbered_and_going_back_leaves_what_can_be_used(empty_url: str) -> None:
    migrate.upgrade(empty_url, "0003")
    engine = open_engine(empty_url)

    def insert(name: str, minute: int, **columns: str) -> None:
        values = {
            "id": uuid4(),
            "name": name,
            "created_at": datetime(2026, 1, 1, 0, minute, tzinfo=UTC),
            **dict.fromkeys(("configuration", "reason"), ""),
            **dict.fromkeys(JSON_COLUMNS, ()),
            **columns,
        }
        types: dict[str, Any] = {
            "id": Uuid(),
            "created_at": UtcDateTime(),
            **dict.fromkeys(JSON_COLUMNS, JsonValue),
        }
        models = table("trained_model", *(column(one, types.get(one)) for one in values))
        with engine.begin() as connection:
            connection.execute(models.insert().values(values))

    def names(*columns: str) -> list[tuple[object, ...]]:
        models = table("trained_model", *(column(one) for one in (*columns, "created_at")))
        with engine.connect() as connection:
            rows = connection.execute(select(models).order_by(models.c.created_at))
            return [tuple(row)[:-1] for row in rows]

    for minute, name in enumerate(("Liver", "Spleen", "Liver")):
        insert(name, minute)
    migrate.upgrade(empty_url)
    insert("Liver", 3)  # As the release before does.
    for minute, state in enumerate(("importing", "failed", "deleted"), start=4):
        insert("", minute, origin="imported", state=state)
    numbered = names("name", "version", "state")

    migrate.downgrade(empty_url, "0003")

    assert numbered[:4] == [
        ("Liver", 1, "ready"),
        ("Spleen", 1, "ready"),
        ("Liver", 2, "ready"),
        ("Liver", None, "ready"),
    ]
    assert names("name") == [("Liver",), ("Spleen",), ("Liver",), ("Liver",)]
    engine.dispose()


def test_a_prediction_that_waits_can_be_read_by_the_release_before(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = open_engine(empty_url)
    job = table("job", column("id", Uuid()), column("kind"), column("payload", JsonValue))
    job_id = uuid4()
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO job (id, kind, lane, state, attempt, crashes, fence, done, total, note, created_at)"
                " VALUES (:id, 'predict', 'predict', 'queued', 0, 0, 0, 0, 0, '', :now)"
            ).bindparams(
                bindparam("id", job_id, type_=Uuid()),
                bindparam("now", datetime.now(UTC), type_=UtcDateTime()),
            )
        )
        connection.execute(job.update().values(payload={"file_ending": ".nii", "choices": {"folds": [0]}}))

    migrate.downgrade(empty_url, "0004")

    with engine.connect() as connection:
        payload = connection.scalar(select(job.c.payload))
        columns = {one["name"] for one in inspect(connection).get_columns("prediction")}
    assert payload == {"file_ending": ".nii"}
    assert not columns & {"choices", "probabilities_key", "properties_key", "uncertainty_key"}
    engine.dispose()


def _insert_a_running_training(connection: Connection) -> None:
    """Write what the first release might have left: a training with three epochs behind it."""
    job = text(
        "INSERT INTO job (id, kind, lane, state, attempt, crashes, fence, lease_expires_at, done, total, note,"
        " created_at) VALUES (:id, :kind, :lane, :state, 1, 0, 1, :lease, 0, 0, '', :now)"
    ).bindparams(bindparam("id", type_=Uuid()), bindparam("now", datetime.now(UTC), type_=UtcDateTime()))
    ids = [uuid4(), uuid4()]
    connection.execute(
        job.bindparams(bindparam("lease", datetime.now(UTC), type_=UtcDateTime())),
        {"id": ids[0], "kind": "train", "lane": "train", "state": "running"},
    )
    connection.execute(
        job, {"id": ids[1], "kind": "preprocess", "lane": "cpu", "state": "succeeded", "lease": None}
    )
    for number in range(3):
        connection.execute(
            text("INSERT INTO epoch VALUES (:id, :number, '{}')").bindparams(bindparam("id", type_=Uuid())),
            {"id": ids[0], "number": number},
        )
    connection.execute(
        text("INSERT INTO job_dependency VALUES (:a, :b)").bindparams(
            bindparam("a", ids[0], type_=Uuid()), bindparam("b", ids[1], type_=Uuid())
        )
    )
    for job_id in ids:
        connection.execute(
            text(
                "INSERT INTO job_event (job_id, at, before, after, note)"
                " VALUES (:id, :now, 'queued', 'running', '')"
            ).bindparams(
                bindparam("id", job_id, type_=Uuid()),
                bindparam("now", datetime.now(UTC), type_=UtcDateTime()),
            )
        )


def test_a_migration_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE epoch (in_the_way INTEGER)")
    connection.close()

    with pytest.raises(OperationalError, match="already exists"):
        migrate.upgrade(f"sqlite:///{file}")

    with sqlite3.connect(file) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    connection.close()
    assert tables == ["epoch"]
