"""Nothing odd is accepted in silence, nothing ends in a traceback, and what is sound has no problem."""

import os
import re

import pytest

from core import __main__ as command_line
from tests.odd_inputs.every import EVERY
from tests.odd_inputs.table import Kitchen, OddInput, findings, meant, verified

CURES = frozenset(
    {
        "add",
        "copy",
        "check",
        "convert",
        "correct",
        "crop",
        "declare",
        "delete",
        "download",
        "export",
        "fetch",
        "unpack",
        "give",
        "keep",
        "leave",
        "make",
        "mend",
        "move",
        "name",
        "number",
        "put",
        "remove",
        "rename",
        "renumber",
        "reorient",
        "replace",
        "resample",
        "save",
        "set",
        "split",
        "take",
        "train",
        "turn",
        "write",
        "must",
        "should",
    }
)
"""What a sentence tells people to do."""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("odd"))


def name_of(entry: OddInput) -> str:
    return re.sub(r"[^a-z0-9]+", "-", entry.name.lower())


@pytest.mark.parametrize("entry", EVERY, ids=name_of)
def test_every_odd_input_gets_its_sentence(
    entry: OddInput, kitchen: Kitchen, capsys: pytest.CaptureFixture[str]
) -> None:
    if entry.unless_root and os.geteuid() == 0:
        pytest.skip("root may read every file")
    raw = kitchen.dataset(entry)

    found = verified(raw)
    status = command_line.main(["verify", "--raw", str(raw)])
    for path in raw.iterdir() if entry.unless_root else ():
        path.chmod(0o755)  # so that pytest can clean up

    assert {one.kind for one in findings(found)} == set(entry.kinds), findings(found)
    assert status == (1 if found.problems else 0)
    for one in meant(entry, found):
        assert set(re.findall(r"[a-z]+", one.message.lower())) & CURES, one.message
        assert str(raw) not in one.message
    assert entry.kinds == () or any(meant(entry, found)), findings(found)
    said = capsys.readouterr()
    assert all(one.message in said.out for one in findings(found)[:5])
    assert "Traceback" not in said.out + said.err


def test_the_table_is_long_enough() -> None:
    names = [entry.name for entry in EVERY]

    assert len(names) == len(set(names))
    assert len([entry for entry in EVERY if entry.kinds]) >= 100
