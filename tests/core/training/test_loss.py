import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from core.domain.labels import LabelSet, label_set
from core.domain.training import TrainingSettings
from core.errors import TrainingError, UnknownNameError
from core.training.dice_ce import Rules, label_terms, region_terms
from core.training.loss import (
    LOSSES,
    Loss,
    LossSetup,
    deep_supervision_weights,
    deeply_supervised,
    make_loss,
)

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/losses_goldens"
RECORDED: list[dict[str, Any]] = (
    json.loads((GOLDENS / "losses_dev.json").read_text()) if GOLDENS.is_dir() else []
)


def labels_of(count: int, *, ignore: bool = False) -> LabelSet:
    values = {"background": 0} | {f"label {value}": value for value in range(1, count)}
    return label_set(values | ({"ignore": count} if ignore else {}), None)


def regions_of(count: int, *, ignore: bool = False) -> LabelSet:
    values: dict[str, Any] = {"background": 0}
    values |= {f"region {i}": tuple(range(i, count + 2)) for i in range(1, count + 1)}
    order = range(1, count + 1)
    return label_set(values | ({"ignore": count + 2} if ignore else {}), tuple(order))


def loss_of(labels: LabelSet, *, batch_dice: bool, **chosen: Any) -> Loss:
    return make_loss(LossSetup(labels, batch_dice, TrainingSettings(**chosen)))


def vector_logits() -> Tensor:
    return torch.sin(torch.arange(96.0, dtype=torch.float64)).float().view(2, 3, 4, 4)


def vector_labels() -> Tensor:
    return (torch.arange(32) * 7 % 3).view(2, 1, 4, 4).to(torch.int16)


def with_first_row(target: Tensor, value: int) -> Tensor:
    changed = target.clone()
    changed[:, :, 0] = value
    return changed


def vector_regions(*, ignore: bool) -> Tensor:
    labels = with_first_row(vector_labels(), 0) if ignore else vector_labels()
    regions = [labels > 0, labels == 2]
    ignored = with_first_row(torch.zeros_like(labels), 1) > 0
    return torch.cat((*regions, ignored) if ignore else regions, dim=1)


@pytest.mark.parametrize(
    ("labels", "target", "per_sample", "per_batch"),
    [
        (labels_of(3), vector_labels(), 1.02015066, 1.01866293),
        (labels_of(3, ignore=True), with_first_row(vector_labels(), 3), 0.95732373, 0.95739621),
        (regions_of(2), vector_regions(ignore=False), 0.26593158, 0.26564175),
        (regions_of(2, ignore=True), vector_regions(ignore=True), 1.04501927, 1.04502380),
        (labels_of(3), torch.zeros_like(vector_labels()), 1.30897927, None),
    ],
    ids=["labels", "ignore", "regions", "regions and ignore", "background only"],
)
def test_reference_vectors(
    labels: LabelSet, target: Tensor, per_sample: float, per_batch: float | None
) -> None:
    logits = vector_logits()[:, : len(labels.heads)]

    assert loss_of(labels, batch_dice=False)(logits, target).item() == pytest.approx(per_sample, abs=1e-6)
    if per_batch is not None:
        assert loss_of(labels, batch_dice=True)(logits, target).item() == pytest.approx(per_batch, abs=1e-6)


def test_parts_of_the_first_reference_vector() -> None:
    cross_entropy, dice, _ = label_terms(
        vector_logits(), vector_labels(), ignore=None, rules=Rules(batch_dice=False)
    )

    assert cross_entropy.item() == pytest.approx(1.33504903, abs=1e-6)
    assert dice.item() == pytest.approx(-0.31489837, abs=1e-6)


def naive_label_loss(logits: Tensor, target: Tensor, ignore: int | None, *, batch_dice: bool) -> Tensor:
    """The formulas of the specification with a one-hot target, for automatic differentiation."""
    truth = target[:, 0].long()
    mask = (
        torch.ones_like(truth, dtype=logits.dtype) if ignore is None else (truth != ignore).to(logits.dtype)
    )
    truth = truth * mask.long()
    cross_entropy = (
        functional.cross_entropy(logits, truth, reduction="none") * mask
    ).sum() / mask.sum().clamp(min=1)
    one_hot = functional.one_hot(truth, logits.shape[1]).movedim(-1, 1).to(logits.dtype) * mask.unsqueeze(1)
    probability = logits.softmax(1) * mask.unsqueeze(1)
    return cross_entropy + naive_dice(probability[:, 1:], one_hot[:, 1:], batch_dice=batch_dice)


def naive_region_loss(logits: Tensor, target: Tensor, *, has_ignore: bool, batch_dice: bool) -> Tensor:
    truth = target[:, : logits.shape[1]].to(logits.dtype)
    mask = (~target[:, -1:]).to(logits.dtype) if has_ignore else torch.ones_like(logits[:, :1])
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    mean = (entropy * mask).sum() / mask.sum().clamp(min=1e-8) if has_ignore else entropy.mean()
    return mean + naive_dice(logits.sigmoid() * mask, truth * mask, batch_dice=batch_dice)


def naive_dice(probability: Tensor, truth: Tensor, *, batch_dice: bool) -> Tensor:
    axes = [0, *range(2, truth.dim())] if batch_dice else list(range(2, truth.dim()))
    hit, mass = (probability * truth).sum(axes), (probability + truth).sum(axes)
    return -((2 * hit + 1e-5) / (mass + 1e-5).clamp(min=1e-8)).mean()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 5),
    has_ignore=st.booleans(),
    has_regions=st.booleans(),
    batch_dice=st.booleans(),
)
def test_value_and_gradient_equal_those_of_the_plain_formulas(
    seed: int, classes: int, *, has_ignore: bool, has_regions: bool, batch_dice: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 3, 4, 2, generator=generator).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    if has_regions:
        target = torch.rand(2, classes + has_ignore, 3, 4, 2, generator=generator) > 0.6
        labels = regions_of(classes, ignore=has_ignore)
        expected = naive_region_loss(exact, target, has_ignore=has_ignore, batch_dice=batch_dice)
    else:
        target = torch.randint(0, classes + has_ignore, (2, 1, 3, 4, 2), generator=generator)
        labels = labels_of(classes, ignore=has_ignore)
        expected = naive_label_loss(exact, target, labels.ignore, batch_dice=batch_dice)

    value = loss_of(labels, batch_dice=batch_dice)(logits, target)
    (gradient,) = torch.autograd.grad(3 * value, logits)

    assert value.item() == pytest.approx(expected.item(), abs=2e-6)
    torch.testing.assert_close(
        gradient.double(), torch.autograd.grad(3 * expected, exact)[0], rtol=1e-4, atol=1e-7
    )


def test_half_precision_logits_get_gradients_that_survive_the_scaling() -> None:
    logits = torch.zeros(1, 3, 64, 64, 64, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(1, 1, 64, 64, 64, dtype=torch.int16)

    loss = loss_of(labels_of(3), batch_dice=False)(logits, target)
    (gradient,) = torch.autograd.grad(65536 * loss, logits)

    assert gradient.dtype == torch.float16
    assert gradient[0, 0].float().mean().item() == pytest.approx(-65536 * (2 / 3) / 64**3, rel=1e-3)


def test_a_perfect_prediction_reaches_minus_one_and_all_ignored_does_not_fail() -> None:
    target = torch.randint(0, 3, (2, 1, 8, 8))
    perfect = 100.0 * functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    loss = loss_of(labels_of(3, ignore=True), batch_dice=False)

    assert loss(perfect, target).item() == pytest.approx(-1, abs=1e-5)
    assert loss(perfect, torch.full_like(target, 3)).item() == pytest.approx(-1, abs=1e-5)


def made(seed: int, *, has_regions: bool, has_ignore: bool) -> tuple[LabelSet, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    if has_regions:
        target = torch.rand(2, 3 + has_ignore, 4, 5, 6, generator=generator) > 0.6
        return regions_of(3, ignore=has_ignore), logits, target
    target = torch.randint(0, 3 + has_ignore, (2, 1, 4, 5, 6), generator=generator)
    return labels_of(3, ignore=has_ignore), logits, target


@pytest.mark.parametrize("has_ignore", [False, True])
@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_and_cross_entropy_add_up_to_the_loss_of_both(
    *, has_regions: bool, has_ignore: bool, batch_dice: bool
) -> None:
    labels, logits, target = made(0, has_regions=has_regions, has_ignore=has_ignore)
    values = {}
    for name in ("dice_ce", "ce", "dice"):
        own = logits.clone().requires_grad_()
        value = loss_of(labels, batch_dice=batch_dice, loss=name)(own, target)
        values[name] = (value.detach(), torch.autograd.grad(value, own)[0])

    torch.testing.assert_close(values["ce"][0] + values["dice"][0], values["dice_ce"][0], atol=2e-6, rtol=0)
    torch.testing.assert_close(values["ce"][1] + values["dice"][1], values["dice_ce"][1], atol=1e-7, rtol=0)


def test_the_hardest_tenth_of_the_voxels_counts_and_ignored_ones_are_the_easiest() -> None:
    labels, logits, target = made(1, has_regions=False, has_ignore=True)
    entropy = functional.cross_entropy(logits, target[:, 0].clamp(max=2), reduction="none")
    entropy = (entropy * (target[:, 0] != 3)).flatten()
    hardest = entropy.sort(descending=True).values[: entropy.numel() // 10].mean()
    dice = loss_of(labels, batch_dice=False, loss="dice")(logits, target)

    assert loss_of(labels, batch_dice=False, loss="topk")(logits, target).item() == pytest.approx(
        hardest.item()
    )
    both = loss_of(labels, batch_dice=False, loss="dice_topk")(logits, target)
    assert both.item() == pytest.approx((hardest + dice).item())


def test_smoothed_labels_and_dice_without_smoothing() -> None:
    labels, logits, target = made(2, has_regions=False, has_ignore=False)
    expected = functional.cross_entropy(logits, target[:, 0], label_smoothing=0.1)
    value = loss_of(labels, batch_dice=False, loss="ce", label_smoothing=0.1)(logits, target)
    assert value.item() == pytest.approx(expected.item())

    nowhere = torch.zeros_like(target)
    assert loss_of(labels, batch_dice=False, loss="dice")(logits, nowhere).item() < 0
    assert loss_of(labels, batch_dice=False, loss="dice", dice_smoothing=0)(logits, nowhere).item() == 0


def test_a_loss_that_does_not_exist_or_does_not_suit_regions_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no loss named 'focal'; choose one of: ce, dice, dice_ce"):
        loss_of(labels_of(2), batch_dice=False, loss="focal")
    for name in ("topk", "dice_topk"):
        with pytest.raises(TrainingError, match="the dataset declares regions; choose"):
            loss_of(regions_of(2), batch_dice=False, loss=name)
    assert "dice_ce" in LOSSES


def test_deep_supervision_weights_of_the_specification() -> None:
    assert deep_supervision_weights(1) == (1.0,)
    assert deep_supervision_weights(2) == (1.0, 0.0)
    assert deep_supervision_weights(3) == pytest.approx((0.666667, 0.333333, 0), abs=1e-6)
    assert deep_supervision_weights(4) == pytest.approx((0.571429, 0.285714, 0.142857, 0), abs=1e-6)
    assert deep_supervision_weights(5) == pytest.approx((0.533333, 0.266667, 0.133333, 0.066667, 0), abs=1e-6)
    assert deep_supervision_weights(6) == pytest.approx(
        (0.516129, 0.258065, 0.129032, 0.064516, 0.032258, 0), abs=1e-6
    )


def test_outputs_of_weight_zero_are_not_computed() -> None:
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return (logits - target).sum()

    logits = [torch.full((1,), value) for value in (3.0, 6.0, float("nan"))]
    targets = [torch.zeros(1)] * 3

    assert deeply_supervised(loss, logits, targets).item() == pytest.approx(3 * 2 / 3 + 6 / 3)


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED, reason="../shared is absent: no recorded losses")
@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record["case"])
def test_loss_equals_the_recorded_one(record: dict[str, Any]) -> None:
    arrays = np.load(GOLDENS / "losses_dev.npz")
    logits, target, gradient = (
        torch.from_numpy(arrays[f"{record['case']}_{name}"]) for name in ("logits", "target", "grad")
    )
    batch_dice = record["batch_dice"]
    if record["loss"] == "DC_and_BCE_loss":
        has_ignore = target.shape[1] > logits.shape[1]
        terms = region_terms(logits, target, has_ignore=has_ignore, rules=Rules(batch_dice=batch_dice))
    else:
        terms = label_terms(logits, target, ignore=record["ignore_label"], rules=Rules(batch_dice=batch_dice))

    cross_entropy, dice, ours = terms

    differences = (
        abs((cross_entropy + dice).item() - record["value"]),
        abs(dice.item() - record["dice_part"]),
        (ours - gradient).abs().max().item(),
    )
    print(record["case"], "value {:.1e} Dice {:.1e} gradient {:.1e}".format(*differences))  # noqa: T201
    assert max(differences[:2]) < 2e-6
    assert differences[2] < 1e-7


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED, reason="../shared is absent: no recorded weights")
def test_deep_supervision_weights_equal_the_recorded_ones() -> None:
    recorded = json.loads((GOLDENS / "deep_supervision_and_lr.json").read_text())

    for count, weights in recorded["deep_supervision_weights_by_number_of_outputs"].items():
        if weights != [None]:  # A single output has no defined weight there.
            assert deep_supervision_weights(int(count)) == tuple(weights)
