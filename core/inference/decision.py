"""What heads say of a voxel → its label, and how sure they are of it."""

from math import log

import numpy as np
import torch
from torch import Tensor

from core.domain.labels import BACKGROUND, FEWEST_FOR_16_BITS, REGION_THRESHOLD, LabelSet
from core.io.image import LabelArray


def codes(logits: Tensor, labels: LabelSet, dim: int) -> Tensor:
    """Decide each voxel: the first largest logit, or the last region whose probability exceeds one half.

    A region painted later covers those before it, so that the last one is all that is seen.

    Args:
        logits: float32, heads along `dim`.
        labels: What the heads stand for.
        dim: Axis of the heads.

    Returns:
        The head, or with regions one more than it and 0 for none; without the axis of the heads.

    Source:
        Engine specification A 8.3.
    """
    if not labels.has_regions:
        return logits.max(dim).indices.to(_code_type(labels))
    return _last(logits.sigmoid() > REGION_THRESHOLD, labels, dim)


def codes_of_probabilities(probabilities: Tensor, labels: LabelSet, dim: int) -> Tensor:
    """Decide each voxel as `codes` does, by probabilities, as of several models together.

    Source:
        Engine specification B 7.1.
    """
    if not labels.has_regions:
        return probabilities.max(dim).indices.to(_code_type(labels))
    return _last(probabilities > REGION_THRESHOLD, labels, dim)


def probabilities_of(logits: Tensor, labels: LabelSet, dim: int) -> Tensor:
    """Return the softmax of labels' logits, or each region's sigmoid.

    Source:
        Engine specification A 8.2.
    """
    return logits.sigmoid() if labels.has_regions else logits.softmax(dim)


def entropy(probabilities: Tensor, labels: LabelSet) -> Tensor:
    """Say how unsure probabilities are: 0 where one label is certain, 1 where all are as likely.

    Args:
        probabilities: Heads first.
        labels: What the heads stand for.

    Returns:
        The entropy of the labels divided by the logarithm of their number; of regions, which are not exclusive, the
        mean of each one's binary entropy in bits. Without the axis of the heads.
    """
    likely = probabilities.clamp(0, 1)
    terms: Tensor = torch.special.entr(likely)
    if labels.has_regions:
        terms = terms + torch.special.entr(1 - likely)
        return terms.mean(0) / log(2)
    return terms.sum(0) / log(max(2, len(likely)))


def painted(codes_zyx: LabelArray, labels: LabelSet) -> LabelArray:
    """Return the label value of each code: a head is its label; a region has the value it is painted with."""
    if labels.region_labels is None:
        return codes_zyx
    painted_zyx: LabelArray = np.array((BACKGROUND, *labels.region_labels))[codes_zyx]
    return painted_zyx


def label_type(labels: LabelSet) -> type[np.unsignedinteger]:
    """Return the type of a label map, whichever labels occur in it."""
    return np.uint8 if len(labels.foreground) < FEWEST_FOR_16_BITS else np.uint16


def _code_type(labels: LabelSet) -> torch.dtype:
    """Return a type that holds all codes."""
    return torch.uint8 if len(labels.heads) < FEWEST_FOR_16_BITS else torch.int16


def _last(is_there: Tensor, labels: LabelSet, dim: int) -> Tensor:
    """Return one more than the last region that is there; 0 where none is."""
    shape = [1] * is_there.ndim
    shape[dim] = -1
    ranks = torch.arange(1, is_there.shape[dim] + 1, dtype=_code_type(labels), device=is_there.device)
    return (is_there * ranks.reshape(shape)).amax(dim)
