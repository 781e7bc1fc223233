"""The warm child of the predict lane: models stay loaded, by least recent use and bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from app.payloads import PredictPayload
from core import pipeline
from core.inference.ensemble import TrainedModel
from worker import tasks
from worker.child import Assignment, serve
from worker.observer import Message, PipeObserver


class ModelCache:
    """Loaded models up to a budget of bytes; the one used last goes last."""

    def __init__(self) -> None:
        self._models: OrderedDict[Hashable, TrainedModel] = OrderedDict()

    def get(
        self, key: Hashable, load: Callable[[], TrainedModel], budget_bytes: int
    ) -> tuple[TrainedModel, bool]:
        """Return a model and whether it was warm.

        Args:
            key: From `loaded_for`.
            load: Called if it is not here.
            budget_bytes: What all models together may take; the newest stays even if it alone is larger.
        """
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key], True
        model = self._models[key] = load()
        while len(self._models) > 1 and self.size_bytes > budget_bytes:
            self._models.popitem(last=False)
        return model, False

    @property
    def size_bytes(self) -> int:
        """What the loaded models take."""
        return sum(model.size_bytes for model in self._models.values())


def loaded_for(payload: PredictPayload) -> Hashable:
    """Return what decides on what is loaded: a model, whose weights never change, folds and precision of it."""
    folds = payload.choices.folds
    return payload.model_id, None if folds is None else frozenset(folds), payload.choices.precision


def main() -> None:
    """Predict until the parent ends."""
    cache = ModelCache()

    def perform(assignment: Assignment, observer: PipeObserver) -> Message:
        workspace, order = assignment.workspace(), assignment.order
        payload = order.payload
        if not isinstance(payload, PredictPayload):
            raise TypeError(f"the predictor was sent a job of kind {payload.kind}")

        def load() -> TrainedModel:
            return pipeline.load(workspace.model(payload.model_files, observer), payload.choices.options)

        with workspace.holds:
            model, was_warm = cache.get(loaded_for(payload), load, assignment.model_cache_bytes)
            return tasks.predict(order, model, workspace, observer, was_warm=was_warm)

    serve(perform, is_resident=True)


if __name__ == "__main__":
    main()
