"""Looks at what a run left in database and store, with eyes of its own: no code of the service is asked."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import MetaData, create_engine, select

from tests.chaos.clients import FINAL, Told

Row = Mapping[str, Any]

Figure = Literal[
    "lost", "doubled", "committed_twice", "hashes_wrong", "epochs_missing", "epochs_doubled", "epochs_wrong"
]

INITIAL_RATE, EXPONENT = 0.01, 0.9
"""Of the learning rate, which falls from epoch to epoch. Source: engine specification B 1.2."""

SMALLEST_DIFFERENCE = 1e-12
"""Of two learning rates that are not the same."""

RESOURCES: Mapping[str, tuple[str, str]] = {
    "dataset": ("datasets", "ingest"),
    "training": ("trainings", "training"),
    "prediction": ("predictions", "predict"),
}
"""What clients create: its table, and the kind of the job that they are told of."""

PREDICTED = ("segmentation_key", "preview_key", "probabilities_key", "properties_key", "uncertainty_key")
"""Columns of a prediction that point at an object."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be."""

    figure: Figure
    sentence: str


@dataclass(frozen=True, slots=True)
class Tables:
    """What stands in the database; ids are texts."""

    jobs: Sequence[Row]
    events: Sequence[Row]
    epochs: Sequence[Row]
    objects: Sequence[Row]
    datasets: Sequence[Row]
    trainings: Sequence[Row]
    models: Sequence[Row]
    predictions: Sequence[Row]
    keys: Sequence[Row]


TABLE_NAMES: Mapping[str, str] = {
    "jobs": "job",
    "events": "job_event",
    "epochs": "epoch",
    "objects": "stored_object",
    "datasets": "dataset",
    "trainings": "training",
    "models": "trained_model",
    "predictions": "prediction",
    "keys": "idempotency_key",
}


def read_tables(url: str) -> Tables:
    """Read everything, as the database itself describes it."""
    engine, metadata = create_engine(url), MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        rows = {
            name: [
                _with_ids(dict(row)) for row in connection.execute(select(metadata.tables[table])).mappings()
            ]
            for name, table in TABLE_NAMES.items()
        }
    engine.dispose()
    return Tables(**rows)


def _with_ids(row: Row) -> Row:
    """Write ids as clients see them; SQLite keeps them without dashes."""
    return {
        name: str(UUID(str(value)))
        if value is not None and not isinstance(value, int) and (name == "id" or name.endswith("_id"))
        else value
        for name, value in row.items()
    }


def audit(tables: Tables, store: Path, told: Sequence[Told]) -> list[Finding]:
    """Return all that is wrong.

    Args:
        tables: What the database holds.
        store: Folder of the object store.
        told: What clients were told, and expect.
    """
    return [
        *lost(tables, told),
        *doubled(tables, told),
        *committed_twice(tables),
        *hashes_wrong(tables, store),
        *epochs_wrong(tables, store),
    ]


def lost(tables: Tables, told: Sequence[Told]) -> Iterator[Finding]:
    """Find work that was promised and not done as it must be."""
    jobs = {row["id"]: row for row in tables.jobs}
    datasets = {row["id"]: row for row in tables.datasets}
    for row in tables.jobs:
        if row["state"] not in FINAL:
            yield Finding("lost", f"{row['kind']} job {row['id']} has not ended: {row['state']}")
    for one in told:
        job = jobs.get(one.job_id)
        if job is None:
            yield Finding("lost", f"job {one.job_id} of {one.noun} {one.id} is not there")
        elif job["state"] in FINAL and job["state"] != one.ends:
            because = (job["error"] or {}).get("detail", "")
            yield Finding("lost", f"{one.noun} {one.id} {job['state']}, not {one.ends}: {because}")
        elif one.noun == "dataset":
            state = datasets[one.id]["state"] if one.id in datasets else "is not there"
            if state != one.dataset_state:
                yield Finding("lost", f"dataset {one.id} {state}, not {one.dataset_state}")
        elif one.noun == "prediction" and one.ends == "succeeded":
            yield from _wrong_segmentation(tables, one)


def _wrong_segmentation(tables: Tables, told: Told) -> Iterator[Finding]:
    """Compare what a client loaded with what the rows say."""
    hashes = {row["key"]: row["sha256"] for row in tables.objects}
    rows = [row for row in tables.predictions if row["id"] == told.id]
    recorded = hashes.get(rows[0]["segmentation_key"]) if rows else None
    if told.sha256 is None or told.sha256 != recorded:
        sentence = f"prediction {told.id}: loaded {told.sha256}, the row says {recorded}"
        yield Finding("lost", sentence)


def doubled(tables: Tables, told: Sequence[Told]) -> Iterator[Finding]:
    """Find things that one request made twice, and keys that find another thing than the client was told."""
    keys = {row["key"]: row for row in tables.keys}
    wanted = {row["resource_id"] for row in tables.keys}
    for one in told:
        key = keys.get(one.key)
        if key is None or (key["resource_id"], key["job_id"]) != (one.id, one.job_id):
            yield Finding("doubled", f"the key of {one.noun} {one.id} finds something else: {key}")
    for noun, (table, kind) in RESOURCES.items():
        jobs = Counter(row[f"{noun}_id"] for row in tables.jobs if row["kind"] == kind)
        for row in getattr(tables, table):
            if row["id"] not in wanted:
                yield Finding("doubled", f"{noun} {row['id']} belongs to no key")
            if jobs[row["id"]] != 1:
                yield Finding("doubled", f"{noun} {row['id']} has {jobs[row['id']]} jobs of kind {kind}")
    yield from _doubled_stages(tables)


def _doubled_stages(tables: Tables) -> Iterator[Finding]:
    """Find trainings that have other jobs than their request asks for."""
    folds = {row["id"]: [str(fold) for fold in row["request"]["folds"]] for row in tables.trainings}
    for parent in (row for row in tables.jobs if row["kind"] == "training" and row["state"] == "succeeded"):
        children = [row for row in tables.jobs if row["parent_id"] == parent["id"]]
        kinds = Counter(row["kind"] for row in children)
        trained = sorted(str(row["payload"]["fold"]) for row in children if row["kind"] == "train")
        once = all(kinds[kind] == 1 for kind in ("plan", "preprocess", "select"))
        if not once or trained != sorted(folds[parent["training_id"]]):
            yield Finding(
                "doubled", f"training {parent['training_id']} has the jobs {kinds}, folds {trained}"
            )


def committed_twice(tables: Tables) -> Iterator[Finding]:
    """Find jobs that succeeded more than once, or whose result comes from more than one claim."""
    jobs = {row["id"]: row for row in tables.jobs}
    successes = Counter(
        row["job_id"] for row in tables.events if row["kind"] == "state" and row["after"] == "succeeded"
    )
    for job in tables.jobs:
        count, expected = successes[job["id"]], int(job["state"] == "succeeded")
        if count != expected:
            yield Finding("committed_twice", f"{job['kind']} job {job['id']} succeeded {count} times")
        fences = defaultdict(set)
        for key in _keys_in((job["result"] or {}).get("files", {})):
            kind, owner, fence, *_ = key.split("/")
            fences[owner].add(int(fence))
            made = jobs.get(owner)
            if made is None or (made["kind"], made["state"], made["fence"]) != (
                kind,
                "succeeded",
                int(fence),
            ):
                yield Finding("committed_twice", f"{key} is not what job {owner} left when it succeeded")
        if any(len(found) > 1 for found in fences.values()):
            yield Finding("committed_twice", f"the result of job {job['id']} mixes claims: {dict(fences)}")


def hashes_wrong(tables: Tables, store: Path) -> Iterator[Finding]:
    """Find objects that are missing or not what was written, and pointers at objects that no row knows."""
    known = {row["key"]: row for row in tables.objects}
    for key, row in known.items():
        file = store / key
        if not file.is_file():
            yield Finding("hashes_wrong", f"{key} has a row and no file")
        elif (file.stat().st_size, _digest(file)) != (row["size_bytes"], row["sha256"]):
            yield Finding("hashes_wrong", f"{key} is not what was written")
    for where, ref in _references(tables):
        stored = known.get(ref["key"])
        if stored is None:
            yield Finding("hashes_wrong", f"{where} points at {ref['key']}, which has no row")
        elif ref["sha256"] not in (None, stored["sha256"]):
            yield Finding("hashes_wrong", f"{where} has another hash of {ref['key']} than its row")


def epochs_wrong(tables: Tables, store: Path) -> Iterator[Finding]:
    """Find trainings whose epochs are not 0, 1, 2 … each once: in the table, in the history, in the file."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in tables.epochs:
        rows[row["job_id"]].append(row)
    for job in tables.jobs:
        if job["kind"] != "train" or job["state"] != "succeeded":
            continue
        title = f"train job {job['id']}"
        wanted = job["payload"]["settings"]["epochs"]
        table = [row["record"] for row in sorted(rows[job["id"]], key=lambda row: row["epoch"])]
        yield from _wrong_numbers(f"{title}, table", table, wanted)
        yield from _wrong_rates(title, table, wanted)
        file = store / job["result"]["files"]["epochs.jsonl"]["key"]
        published = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        yield from _wrong_numbers(f"{title}, epochs.jsonl", published, wanted)
        told, stumbled = _replayed([row for row in tables.events if row["job_id"] == job["id"]])
        yield from _wrong_numbers(f"{title}, history", told, wanted)
        if stumbled:
            yield Finding("epochs_wrong", f"{title}: the history tells epochs out of order: {stumbled}")
        if table != published or table != told:
            yield Finding("epochs_wrong", f"{title}: table, history and epochs.jsonl tell different things")


def _wrong_numbers(title: str, records: Sequence[Row], wanted: int) -> Iterator[Finding]:
    counts = Counter(record["epoch"] for record in records)
    if missing := sorted(set(range(wanted)) - set(counts)):
        yield Finding("epochs_missing", f"{title}: epochs {missing} of {wanted} are missing")
    if twice := sorted(epoch for epoch, count in counts.items() if count > 1 or epoch >= wanted):
        yield Finding("epochs_doubled", f"{title}: epochs {twice} of {wanted} are too many")


def _wrong_rates(title: str, records: Sequence[Row], wanted: int) -> Iterator[Finding]:
    for record in records:
        expected = INITIAL_RATE * (1 - record["epoch"] / wanted) ** EXPONENT
        if abs(record["learning_rate"] - expected) > SMALLEST_DIFFERENCE:
            yield Finding("epochs_wrong", f"{title}: the learning rate of epoch {record['epoch']} is wrong")


def _replayed(events: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """Follow a history as a client does; return the epochs that stand in the end, and those out of order."""
    known: list[Row] = []
    stumbled = []
    for event in sorted(events, key=lambda row: row["id"]):
        if event["kind"] == "resumed":
            known = [record for record in known if record["epoch"] < event["content"]["epoch"]]
        if event["kind"] == "epoch":
            if event["content"]["epoch"] != len(known):
                stumbled.append(event["content"]["epoch"])
            known.append(event["content"])
    return known, stumbled


def orphans(tables: Tables, store: Path) -> list[str]:
    """Return files in the store that no row knows; they cost room and nothing else."""
    known = {row["key"] for row in tables.objects}
    files = (file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())
    return sorted(key for key in files if key not in known)


def unused(tables: Tables) -> list[str]:
    """Return objects that have a row, and that nothing points at."""
    used = {ref["key"] for _, ref in _references(tables)}
    return sorted(row["key"] for row in tables.objects if row["key"] not in used)


def _references(tables: Tables) -> Iterator[tuple[str, Row]]:
    """Yield everything that points at an object, as `key` and `sha256`, the latter None where it is not told."""
    for job in tables.jobs:
        for column in ("payload", "result", "checkpoint"):
            for ref in _refs_in(job[column]):
                yield f"{column} of {job['kind']} job {job['id']}", ref
    for model in tables.models:
        for ref in _refs_in(model["files"]):
            yield f"model {model['id']}", ref
    for table, columns in (
        (tables.datasets, ("archive_key", "fingerprint_key")),
        (tables.trainings, ("plans_key",)),
        (tables.predictions, PREDICTED),
    ):
        for row in table:
            for column in columns:
                if row[column] is not None:
                    yield f"{column} of {row['id']}", {"key": row[column], "sha256": None}


def _refs_in(value: Any) -> Iterator[Row]:
    """Yield all pointers at objects, however deep they lie."""
    match value:
        case {"key": str(), "sha256": str(), "size_bytes": int()}:
            yield value
        case dict():
            for inner in value.values():
                yield from _refs_in(inner)
        case list():
            for inner in value:
                yield from _refs_in(inner)


def _keys_in(files: Mapping[str, Row]) -> list[str]:
    return [ref["key"] for ref in files.values()]


def _digest(file: Path) -> str:
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def story_of(tables: Tables, job_id: str) -> str:
    """Tell what is known of a job, for whoever looks into it."""
    rows = [row for row in tables.jobs if job_id in (row["id"], row["parent_id"])]
    lines = [
        f"  {row['kind']} {row['id']} {row['state']} attempt {row['attempt']} {row['error']}" for row in rows
    ]
    ids = {row["id"] for row in rows}
    for event in sorted(tables.events, key=lambda row: row["id"]):
        if event["job_id"] in ids:
            moved = f"{event['before']} → {event['after']} {event['note']} {event['content'] or ''}"
            lines.append(f"    {event['at']} {event['job_id'][:8]} {event['kind']} {moved}")
    return "\n".join(lines)
