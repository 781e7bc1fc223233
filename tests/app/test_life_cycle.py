"""Whatever clients, workers and crashes do in whatever order: what must hold of every job."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.base import open_engine, open_readers, open_sessions, transaction
from app.db.migrate import upgrade
from app.db.models import Dataset, Epoch, Job, JobEvent, TrainedModel
from app.errors import ConflictError, LeaseLostError
from app.jobs import FINAL_STATES, LEASED_STATES, TRANSITIONS, EventKind, JobKind, JobState
from app.queue import PolledQueue
from app.services import graph, jobs, offers, steering
from app.services.claims import Claim
from app.services.resources import Resources
from app.services.steering import ASKED_TO_PAUSE, RETRIED_STATES
from app.storage import LocalStore
from tests.app import playing

STEERING = {
    "cancel": steering.cancel,
    "pause": steering.pause,
    "resume": steering.resume,
    "retry": steering.retry,
}

TEMPLATE = Path(tempfile.mkdtemp()) / "service.db"


class Lives(RuleBasedStateMachine):
    """One service, one dataset, and anything that may happen to jobs."""

    @initialize(played=st.integers(0, 3))
    def begin(self, played: int) -> None:
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
        self.ended: dict[UUID, JobState] = {}
        self.ask_for_a_training((0, 1), 1)
        for _ in range(played):
            playing.finish(self.sessions, playing.claim(self.sessions))

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self._let_everything_end()
            self.engine.dispose()
            shutil.rmtree(self.folder)

    def _let_everything_end(self) -> None:
        """Whatever happened: once workers live and nothing is paused, every job comes to an end."""
        self.let_every_worker_die()
        for job_id in self._job_ids():  # A training was created before its jobs.
            if playing.job_row(self.sessions, job_id).state is JobState.PAUSED:
                playing.steer(self.sessions, steering.resume, job_id)
        playing.play_all(self.sessions)
        assert {playing.job_row(self.sessions, job_id).state for job_id in self._job_ids()} <= FINAL_STATES

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
    @rule(data=st.data(), way=st.sampled_from(["succeed", "fail", "crash", "stop", "epoch", "beat"]))
    def write(self, data: st.DataObject, way: str) -> None:
        """Any claim, also one that lost its lease long ago, tries any write."""
        taken = data.draw(st.sampled_from(self.claims))
        row = playing.job_row(self.sessions, taken.job_id)
        is_ours = row.fence == taken.fence and row.state in LEASED_STATES
        if is_ours:
            self._write(taken, way)
        else:
            with pytest.raises(LeaseLostError):
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
        chosen = data.draw(st.sampled_from(self._job_ids()))
        try:
            playing.steer(self.sessions, steering.cancel, chosen)
        except ConflictError:
            assert playing.job_row(self.sessions, chosen).state in (JobState.SUCCEEDED, JobState.FAILED)

    @rule(data=st.data())
    def ask_to_pause(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self._job_ids()))
        try:
            state = playing.steer(self.sessions, steering.pause, chosen)
        except ConflictError:
            row = playing.job_row(self.sessions, chosen)
            assert row.state in FINAL_STATES | {JobState.CANCELING, JobState.WAITING}
        else:
            assert state in ASKED_TO_PAUSE

    @rule(data=st.data())
    def ask_to_resume(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self._job_ids()))
        before = playing.job_row(self.sessions, chosen)
        is_held = (
            before.parent_id is not None
            and playing.job_row(self.sessions, before.parent_id).state in ASKED_TO_PAUSE
        )
        try:
            state = playing.steer(self.sessions, steering.resume, chosen)
        except ConflictError:
            assert before.state not in ASKED_TO_PAUSE or is_held
        else:
            assert state in (JobState.QUEUED, JobState.RUNNING)

    @rule(data=st.data())
    def ask_to_retry(self, data: st.DataObject) -> None:
        bad_ends = [job_id for job_id, state in self.ended.items() if state in RETRIED_STATES]
        chosen = data.draw(st.sampled_from(bad_ends or self._job_ids()))
        try:
            state = playing.steer(self.sessions, steering.retry, chosen)
        except ConflictError:
            return
        assert self.ended[chosen] in RETRIED_STATES
        assert state in (JobState.QUEUED, JobState.WAITING, JobState.PAUSED)
        for job_id, ended in list(self.ended.items()):
            if ended in RETRIED_STATES and playing.job_row(self.sessions, job_id).state is not ended:
                del self.ended[job_id]

    def _job_ids(self) -> list[UUID]:
        with transaction(self.resources.readers) as session:
            return list(session.scalars(select(Job.id).order_by(Job.created_at, Job.id)))

    @rule()
    def let_every_worker_die(self) -> None:
        playing.let_leases_run_out(self.sessions)
        playing.sweep(self.sessions)

    @invariant()
    def only_a_retry_leads_out_of_a_final_state(self) -> None:
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
            succeeded: list[object] = []
            for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
                assert event.before is last.get(event.job_id)
                if event.kind is not EventKind.STATE:
                    assert event.before is event.after
                    continue
                assert event.before is None or event.after in TRANSITIONS[event.before]
                last[event.job_id] = event.after
                succeeded += [event.job_id] * (event.after is JobState.SUCCEEDED)
        assert last == states
        assert len(succeeded) == len(set(succeeded))

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

    @rule()
    def exactly_that_is_offered_which_would_be_done(self) -> None:
        """But for what changes nothing: to cancel what is canceled, to pause what is paused."""
        with transaction(self.resources.readers) as session:
            found = session.scalars(select(Job)).all()
            offered = offers.verbs_of(session, found)
        for job in found:
            done = {verb for verb, ask in STEERING.items() if self.would_change(ask, job)}
            assert set(offered[job.id]) == done, (job.kind, job.state)

    def would_change(self, ask: Callable[[Session, UUID], Job], job: Job) -> bool:
        with self.sessions() as session:
            try:
                changed = ask(session, job.id).state is not job.state
            except ConflictError:
                changed = False
            session.rollback()
        return changed

    @invariant()
    def a_lease_means_that_a_worker_has_the_job(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            for job in session.scalars(select(Job)):
                has_worker = job.kind is not JobKind.TRAINING and job.state in LEASED_STATES
                assert (job.lease_expires_at is not None) == has_worker

    @invariant()
    def a_paused_training_holds_its_jobs_back(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with transaction(self.resources.readers) as session:
            for parent in session.scalars(select(Job).where(Job.state.in_(ASKED_TO_PAUSE))).all():
                states = set(session.scalars(select(Job.state).where(Job.parent_id == parent.id)))
                assert not states & {JobState.QUEUED, JobState.RUNNING}
                if parent.state is JobState.PAUSED:
                    assert not states & LEASED_STATES

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
                assert not {need.state for need in graph.needed_by(session, job.id)} & RETRIED_STATES
            rows = session.execute(select(Epoch.job_id, Epoch.epoch)).all()
            assert len(rows) == len(set(rows))


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=18,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
