"""The warm child of the predict lane: models stay loaded, by least recent use and bytes."""

import logging
from collections import OrderedDict

from app.jobs import PredictPayload
from core import pipeline
from core.domain.model import PredictionOptions
from core.inference.model import LoadedModel
from worker import tasks
from worker.child import Assignment, serve
from worker.observer import Message, PipeObserver
from worker.workspace import Workspace

log = logging.getLogger(__name__)


class ModelCache:
    """Loaded models up to a budget of bytes; the one used last goes last."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()

    def get(
        self, workspace: Workspace, payload: PredictPayload, budget_bytes: int
    ) -> tuple[LoadedModel, bool]:
        """Return the model of a prediction and whether it was warm.

        Args:
            workspace: Where the model's files are fetched to.
            payload: Names the model.
            budget_bytes: What all models together may take; the newest stays even if it alone is larger.

        Raises:
            ModelError: The model cannot be loaded.
        """
        key = str(payload.model_id)
        if key in self._models:
            self._models.move_to_end(key)
            return self._models[key], True
        model = pipeline.load(workspace.model(payload.model_files), PredictionOptions())
        self._models[key] = model
        while len(self._models) > 1 and self.size_bytes > budget_bytes:
            self._models.popitem(last=False)
        return model, False

    @property
    def size_bytes(self) -> int:
        """What the loaded models take."""
        return sum(model.size_bytes for model in self._models.values())


def main() -> None:
    """Predict until the parent ends."""
    cache = ModelCache()

    def perform(assignment: Assignment, observer: PipeObserver) -> Message:
        workspace, order = assignment.workspace(), assignment.order
        if not isinstance(order.payload, PredictPayload):
            raise TypeError(f"the predictor was sent a job of kind {order.payload.kind}")
        model, was_warm = cache.get(workspace, order.payload, assignment.model_cache_bytes)
        return tasks.predict(order, model, workspace, observer, was_warm=was_warm)

    serve(perform, is_resident=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    main()
