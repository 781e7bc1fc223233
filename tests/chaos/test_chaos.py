"""A short run: a few faults, a few jobs, nothing lost."""

import sys
from pathlib import Path

import pytest

from tests.chaos.run import Order, describe, run, say


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
def test_nothing_is_lost_in_a_short_run(tmp_path: Path) -> None:
    outcome = run(Order(mode="scaled", faults=4, jobs=8, seed=1, clients=2), tmp_path, say)

    assert len(outcome.faults) == 4
    assert outcome.is_good, "\n".join(describe(outcome))
