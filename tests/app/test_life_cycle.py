"""Whatever clients, workers and crashes do in whatever order: what must hold of every job."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from app.db.base import open_engine, open_readers, open_sessions, transaction
from app.db.migrate import upgrade
from app.db.models import Dataset, Epoch, Job, JobEvent, TrainedModel
from app.errors import ConflictError, LeaseLostError
from app.jobs import FINAL_STATES, LEASED_STATES, TRANSITIONS, JobKind, JobState
from app.queue import PolledQueue
from app.services import jobs, steering
from app.services.jobs import Claim
from app.services.resources import Resources
from app.storage import LocalStore
from tests.app import playing

TEMPLATE = Path(tempfile.mkdtemp()) / "service.db"


class Lives(RuleBasedStateMachine):
    """One service, one dataset, and anything that may happen to jobs."""

    @initialize()
    def begin(self) -> None:
        if not TEMPLATE.exists():
            upgrade(f"sqlite:///{TEMPLATE}")
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(TEMPLATE, self.folder / "service.db")
        self.engine = open_engine(f"sqlite:///{self.folder / 'service.db'}")
        self.resources = Resources(
            open_sessions(self.engine),
            open_readers(self.engine),
            LocalStore(self.folder / "store"),
            PolledQueue(),
        )
        self.sessions = self.resources.sessions
        self.dataset_id = playing.ready_dataset(self.resources)
        self.claims: list[Claim] = []
        self.ended: dict[object, JobState] = {}

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            shutil.rmtree(self.folder)

    @rule(folds=st.sampled_from([(0,), (0, 1), ("all",)]), count=st.sampled_from([1, 2]))
    def ask_for_a_training(self, folds: tuple[int | str, ...], count: int) -> None:
        playing.training(
            self.resources, self.dataset_id, folds=folds, configurations=["2d", "3d_fullres"][:count]
        )

    @rule()
    def upload(self) -> None:
        playing.upload(self.resources)

    @rule()
    def take_a_job(self) -> None:
        taken = playing.try_claim(self.sessions)
        if taken is not None:
            self.claims.append(taken)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(), way=st.sampled_from(["succeed", "fail", "cancel", "crash", "stop", "epoch", "beat"])
    )
    def write(self, data: st.DataObject, way: str) -> None:
        """Any claim, also one that lost its lease long ago, tries any write."""
        taken = data.draw(st.sampled_from(self.claims))
        row = playing.job_row(self.sessions, taken.job_id)
        is_ours = row.fence == taken.fence and row.state in LEASED_STATES
        may_write = is_ours and not (way == "cancel" and row.state is JobState.RUNNING)
        if may_write:
            self._write(taken, way)
        else:
            with pytest.raises((LeaseLostError, ConflictError)):
                self._write(taken, way)
            after = playing.job_row(self.sessions, taken.job_id)
            assert (after.state, after.stage, after.result) == (row.state, row.stage, row.result)

    def _write(self, taken: Claim, way: str) -> None:
        with transaction(self.sessions) as session:
            match way:
                case "succeed":
                    jobs.succeed(session, taken, playing.typical_result(taken))
                case "fail":
                    jobs.fail(session, taken, {"detail": "no", "code": "training-failed"})
                case "cancel":
                    jobs.stopped(session, taken)
                case "crash":
                    jobs.give_back(session, taken, "killed by signal 9", max_crashes=playing.MAX_CRASHES)
                case "stop":
                    jobs.give_back(session, taken, "its worker was stopped")
                case "epoch":
                    jobs.record_epoch(session, taken, playing.epoch(taken.attempt))
                case _:
                    jobs.renew(session, taken, 30)

    @rule(data=st.data())
    def ask_to_cancel(self, data: st.DataObject) -> None:
        with transaction(self.sessions) as session:
            ids = session.scalars(select(Job.id).order_by(Job.created_at, Job.id)).all()
        chosen = data.draw(st.sampled_from(ids))
        try:
            with transaction(self.sessions) as session:
                steering.cancel(session, chosen)
        except ConflictError:
            assert playing.job_row(self.sessions, chosen).state in (JobState.SUCCEEDED, JobState.FAILED)

    @rule()
    def let_every_worker_die(self) -> None:
        playing.let_leases_run_out(self.sessions)
        with transaction(self.sessions) as session:
            jobs.sweep(session, playing.MAX_CRASHES)

    @invariant()
    def no_way_leads_out_of_a_final_state(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            for job in session.scalars(select(Job)):
                assert self.ended.get(job.id, job.state) is job.state
                if job.state in FINAL_STATES:
                    self.ended[job.id] = job.state
                    assert job.finished_at is not None

    @invariant()
    def every_life_is_a_path_through_the_table(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            states = {job.id: job.state for job in session.scalars(select(Job))}
            last: dict[object, JobState] = {}
            for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
                assert event.before is last.get(event.job_id)
                assert event.before is None or event.after in TRANSITIONS[event.before]
                last[event.job_id] = event.after
        assert last == states

    @invariant()
    def parents_follow_from_their_children(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            for parent in session.scalars(select(Job).where(Job.kind == JobKind.TRAINING)).all():
                children = session.scalars(select(Job).where(Job.parent_id == parent.id)).all()
                have_ended = all(child.state in FINAL_STATES for child in children)
                assert (parent.state in FINAL_STATES) == have_ended
                if have_ended and all(child.state is JobState.SUCCEEDED for child in children):
                    assert parent.state is JobState.SUCCEEDED
                models = session.scalars(
                    select(TrainedModel).where(TrainedModel.training_id == parent.training_id)
                ).all()
                assert len(models) == (parent.state is JobState.SUCCEEDED)

    @invariant()
    def nothing_waits_for_a_job_that_has_ended(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            for job in session.scalars(select(Job).where(Job.kind == JobKind.INGEST)).all():
                dataset = session.get_one(Dataset, job.dataset_id)
                assert (dataset.state == "ingesting") == (job.state not in FINAL_STATES)
            for job in session.scalars(select(Job).where(Job.state == JobState.WAITING)).all():
                assert job.error is None
            rows = session.execute(select(Epoch.job_id, Epoch.epoch)).all()
            assert len(rows) == len(set(rows))


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
