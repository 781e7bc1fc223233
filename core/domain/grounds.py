"""What a training stands on beside its settings, entry by entry, so that what has changed meanwhile can be named."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from core.domain.dataset import CaseId, DatasetDescription
from core.domain.labels import LabelSet
from core.domain.plan import INTENSITIES, Configuration, ConfigurationName, Plan

UNUSED: Final = frozenset({"data_identifier", "median_image_size_in_voxels", "next_stage"})
"""Entries of a configuration that neither its network nor its images depend on."""

Grounds = Mapping[str, str]
"""A digest per entry."""


def grounds_of_training(
    configuration: Configuration, labels: LabelSet, train: Iterable[CaseId], val: Iterable[CaseId]
) -> Grounds:
    """Return what one fold is trained from, but for the voxels.

    Args:
        configuration: With what it inherits.
        labels: What the network tells apart.
        train: Cases, in any order; likewise below.
        val: Of the fold.
    """
    cases = {"the training cases": sorted(train), "the validation cases": sorted(val)}
    return _digests(_of_network(configuration, labels) | cases)


def grounds_of_model(plan: Plan, name: ConfigurationName, description: DatasetDescription) -> Grounds:
    """Return what all folds of a model have in common, and what their images are preprocessed by.

    Raises:
        PlanError: The plan has no such configuration.
        LabelsError: The labels contradict each other.
    """
    entries = plan.model_dump(mode="json", include={"transpose_forward", "transpose_backward", INTENSITIES})
    channels = {"the channels": description.channels}
    return _digests(entries | channels | _of_network(plan.configuration(name), description.label_set()))


def changed(before: Grounds, now: Grounds) -> tuple[str, ...]:
    """Return which entries differ; one that either side does not know, being older, is no difference."""
    return tuple(name for name, digest in before.items() if now.get(name, digest) != digest)


def _of_network(configuration: Configuration, labels: LabelSet) -> dict[str, Any]:
    """Return the entries of a configuration, and the labels."""
    used = set(Configuration.model_fields) - UNUSED
    return configuration.model_dump(mode="json", by_alias=True, exclude_none=True, include=used) | {
        "previous_stage": configuration.previous_stage,
        "the labels": asdict(labels),
    }


def _digests(entries: Mapping[str, Any]) -> dict[str, str]:
    """Hash each entry."""
    texts = {name: json.dumps(value, sort_keys=True) for name, value in entries.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
