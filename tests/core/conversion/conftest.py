from pathlib import Path

import pytest

from tests.older_layouts import make_older


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    return make_older(tmp_path / "Task99_Phantoms")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "Dataset099_Phantoms"
