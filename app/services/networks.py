"""Which networks a model has: the folds of each member of an ensemble, by the names of its files."""

import re
from typing import Final

from app.db.models import TrainedModel
from core.domain.ensemble import MEMBERS_FOLDER
from core.domain.model import WEIGHTS_FILE
from core.domain.training import Fold

WEIGHTS: Final = re.compile(
    rf"(?:{MEMBERS_FOLDER}/(?P<member>[^/]+)/)?fold_(?P<fold>\d+|all)/{re.escape(WEIGHTS_FILE)}"
)
"""Weights in a model's folder that may be chosen; those of stages before a cascade's last are all used."""


def folds_by_member(model: TrainedModel) -> dict[str | None, list[Fold]]:
    """Return the folds of each member of an ensemble, or of the only network, which has no name."""
    found: dict[str | None, list[Fold]] = {}
    for weights in filter(None, map(WEIGHTS.fullmatch, model.files)):
        fold = weights["fold"]
        found.setdefault(weights["member"], []).append("all" if fold == "all" else int(fold))
    return {member: sorted(folds, key=_place) for member, folds in sorted(found.items(), key=str)}


def _place(fold: Fold) -> tuple[bool, int]:
    """Place a fold in a list: by its number, the one of all cases last."""
    return (True, 0) if isinstance(fold, str) else (False, fold)
