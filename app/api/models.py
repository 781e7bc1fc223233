"""Routes of trained models: list and read."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter

from app.api.deps import BaseDep, Body, NoQuery, PageDep, SessionDep
from app.db.models import TrainedModel
from app.services import models

router = APIRouter(prefix="/models", tags=["models"])


class ModelView(Body):
    """One model: what it takes, what it tells apart, how good it was."""

    id: UUID
    name: str
    configuration: str
    folds: list[int | str]
    channels: list[str]
    """In the order in which POST /predict takes images."""
    labels: dict[str, Any]
    mean_dice: float | None
    """Over the validation cases of all folds."""
    reason: str
    """Why this configuration."""
    training_id: UUID | None
    dataset_id: UUID | None
    size_bytes: int
    created_at: datetime
    links: dict[str, str]


class ModelPage(Body):
    """Some models, newest first."""

    items: list[ModelView]
    next_cursor: str | None


@router.get("")
def list_models(session: SessionDep, query: PageDep, base: BaseDep) -> ModelPage:
    """List models, newest first."""
    page = models.read(session, query.request())
    return ModelPage(items=[_view(model, base) for model in page.items], next_cursor=page.next_cursor)


@router.get("/{model_id}", dependencies=[NoQuery])
def get_model(session: SessionDep, model_id: UUID, base: BaseDep) -> ModelView:
    """Read one model."""
    return _view(models.find(session, model_id), base)


def _view(model: TrainedModel, base: str) -> ModelView:
    links = {"self": f"{base}/models/{model.id}", "predict": f"{base}/predict?model={model.id}"}
    if model.training_id is not None:
        links["training"] = f"{base}/trainings/{model.training_id}"
    if model.dataset_id is not None:
        links["dataset"] = f"{base}/datasets/{model.dataset_id}"
    return ModelView(
        id=model.id,
        name=model.name,
        configuration=model.configuration,
        folds=model.folds,
        channels=model.channels,
        labels=model.labels,
        mean_dice=model.mean_dice,
        reason=model.reason,
        training_id=model.training_id,
        dataset_id=model.dataset_id,
        size_bytes=sum(int(ref["size_bytes"]) for ref in model.files.values()),
        created_at=model.created_at,
        links=links,
    )
