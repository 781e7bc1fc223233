"""One of the processes that train a fold together: the first one speaks for all, to the child that has the job."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from app import log as logs
from app.jobs import INTERNAL_ERROR
from core import pipeline
from core.domain.plan import ConfigurationName, Plan
from core.domain.record import Record
from core.domain.splits import Grouping
from core.domain.training import Fold, Split, TrainingSettings
from worker.child import end_with_parent, outcome, private_output
from worker.observer import PipeObserver, result_message


class Task(Record):
    """One fold to train, from files of this machine: what `core.pipeline.TrainOrder` says, as JSON can say it."""

    raw: Path
    plan: Plan
    configuration: ConfigurationName
    fold: Fold
    settings: TrainingSettings
    model: Path
    preprocessed: Path | None = None
    threads: int | None = None
    splits: tuple[Split, ...] | Grouping | None = None
    previous: tuple[Path, ...] = ()
    pretrained: Path | None = None
    """Folder of a model, or a file of weights, that the network begins with."""
    goes_further: bool = False
    keeps_ended: bool = True
    """Folds of a model go further together, whichever of them stopped early."""
    save_probabilities: bool = False
    """For ensembles with other configurations."""

    def order(self) -> pipeline.TrainOrder:
        """Return it as the engine takes it: the same by the same names, but for weights, which are read.

        Raises:
            ModelError: There are no weights that can be read.
            TrainingError: They are those of another network.
        """
        initial = None
        if self.pretrained is not None:
            initial = pipeline.start_weights(
                self.pretrained, fold=None, raw=self.raw, plan=self.plan, configuration=self.configuration
            )
        return pipeline.TrainOrder(**(dict(self) | {"pretrained": initial}))


class Shared(Record):
    """What all processes of a training are told."""

    task: Task
    job_id: str
    log_format: logs.LogFormat
    log_level: str

    def write(self, path: Path) -> None:
        """Write it to a file; what the plan left open is not in it."""
        path.write_text(self.model_dump_json(by_alias=True, exclude_unset=True))


def main() -> None:
    """Do this process's part of the training that the file on the command line describes.

    The second argument is the number of the launcher's process.
    """
    file, launcher = sys.argv[1:]
    end_with_parent(int(launcher))
    send = private_output()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker, which asks us to stop.
    shared = Shared.model_validate_json(Path(file).read_bytes())
    logs.configure(shared.log_format, shared.log_level)
    logs.job_id.set(shared.job_id)
    observer = PipeObserver(send)
    is_first = pipeline.is_first_process()
    if is_first:
        _listen(observer.stop)
    message = outcome(lambda: result_message(pipeline.train(shared.task.order(), observer)))
    has_failed = message["event"] == "error"
    # An error that nobody foresaw may only say that another process has died: the child sees that all end.
    if (is_first and not has_failed) or (has_failed and message["problem"]["code"] != INTERNAL_ERROR):
        send(message)
    if has_failed:
        sys.exit(1)  # So that the launcher ends the others, which wait for this one.


def _listen(stop: Callable[[], None]) -> None:
    """Pass on that the child asks to stop, by a line; when its pipe ends, it has ended, and so do we."""

    def read() -> None:
        while os.read(0, 65536):
            stop()
        os._exit(1)

    Thread(target=read, name="child", daemon=True).start()


if __name__ == "__main__":
    main()
