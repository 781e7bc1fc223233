import json
from pathlib import Path

import pytest

from core.training.schedule import learning_rate

RECORDED = (
    Path(__file__).resolve().parents[3] / "../shared/goldens/losses_goldens/deep_supervision_and_lr.json"
)


def test_reference_vectors() -> None:
    rates = [learning_rate(epoch, 1000, 0.01) for epoch in (0, 1, 500, 999)]

    assert rates == pytest.approx([0.01, 0.00999100, 0.00535887, 1.99526e-5], rel=2e-6)


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded learning rates")
def test_rates_equal_the_recorded_ones() -> None:
    recorded = json.loads(RECORDED.read_text())["poly_lr_initial_1e-2_max_50"]

    assert [learning_rate(epoch, 50, 0.01) for epoch in range(50)] == recorded
