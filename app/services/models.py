"""Trained models: list and read."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import TrainedModel
from app.errors import NotFoundError
from app.services.paging import Page, PageRequest, read_page


def find(session: Session, model_id: UUID) -> TrainedModel:
    """Return one model.

    Raises:
        NotFoundError: There is no such model.
    """
    model = session.get(TrainedModel, model_id)
    if model is None:
        raise NotFoundError(f"there is no model {model_id}", model_id=str(model_id))
    return model


def read(session: Session, page: PageRequest) -> Page[TrainedModel]:
    """Return models, newest first."""
    return read_page(session, select(TrainedModel), TrainedModel, page)
