import json
from pathlib import Path

import pytest

from core.domain.training import TrainingSettings
from core.training.schedule import learning_rate

RECORDED = (
    Path(__file__).resolve().parents[3] / "../shared/goldens/losses_goldens/deep_supervision_and_lr.json"
)


def test_reference_vectors() -> None:
    rates = [learning_rate(epoch, TrainingSettings(epochs=1000)) for epoch in (0, 1, 500, 999)]

    assert rates == pytest.approx([0.01, 0.00999100, 0.00535887, 1.99526e-5], rel=2e-6)


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded learning rates")
def test_rates_equal_the_recorded_ones() -> None:
    recorded = json.loads(RECORDED.read_text())["poly_lr_initial_1e-2_max_50"]

    assert [learning_rate(epoch, TrainingSettings(epochs=50)) for epoch in range(50)] == recorded


def test_warm_up_rises_to_the_initial_rate_and_the_schedule_covers_the_rest() -> None:
    settings = TrainingSettings(epochs=10, warmup_epochs=4, initial_learning_rate=0.02)
    rates = [learning_rate(epoch, settings) for epoch in range(10)]

    assert rates[:5] == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02])
    assert rates[7] == pytest.approx(0.02 * (1 - 3 / 6) ** 0.9)
    assert learning_rate(0, TrainingSettings(epochs=3, warmup_epochs=5)) == pytest.approx(0.002)


def test_cosine_and_constant() -> None:
    cosine = [
        learning_rate(epoch, TrainingSettings(epochs=4, schedule="cosine", initial_learning_rate=1))
        for epoch in range(4)
    ]

    assert cosine == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert learning_rate(999, TrainingSettings(schedule="constant")) == 0.01
