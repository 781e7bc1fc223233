"""The documentation tells the truth: the map lists every module, settings and problems are complete."""

import ast
import re
from pathlib import Path

import pytest

from app.settings import Settings
from core.domain.problems import NOTE_KINDS, PROBLEM_KINDS
from core.domain.training import TrainingSettings
from core.errors import DomainError
from core.planning.presets import PRESETS
from worker import raw

ROOT = Path(__file__).parents[1]
MAP = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = ("core", "app", "worker")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def _door_sign(module: Path) -> str:
    return (ast.get_docstring(ast.parse(module.read_text())) or "").splitlines()[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_opens_with_its_sentence(module: Path) -> None:
    assert _door_sign(module).endswith(".")


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if module.name != "__init__.py"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_the_map_carries_the_sentence_of_every_module(module: Path) -> None:
    listed = re.findall(rf"─ {re.escape(module.name)} +(.*)", MAP)

    assert _door_sign(module) in listed


def test_the_map_lists_no_module_that_is_gone() -> None:
    listed = set(re.findall(r"─ (\w+\.py) ", MAP))

    there = {
        module.name for room in (*ROOMS, "examples", "migrations") for module in (ROOT / room).rglob("*.py")
    }
    assert sorted(listed - there) == []


def test_every_setting_is_explained() -> None:
    explained = (ROOT / "docs" / "settings.md").read_text()

    missing = [name for name in Settings.model_fields if f"`SEG_{name.upper()}`" not in explained]

    assert missing == []


def test_every_setting_of_a_training_is_explained_with_its_default() -> None:
    explained = (ROOT / "docs" / "training.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", explained, re.MULTILINE))

    assert [name for name in TrainingSettings.model_fields if name not in rows] == []
    for name, field in TrainingSettings.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"{field.default:f}".rstrip("0").rstrip(".") in rows[name], name


def test_every_preset_is_named_where_planning_is_described() -> None:
    explained = (ROOT / "README.md").read_text()

    assert [name for name in PRESETS if f"`{name}`" not in explained] == []


def test_every_kind_of_problem_is_explained() -> None:
    explained = (ROOT / "docs" / "problems.md").read_text()
    for module in MODULES:
        if "DomainError" in module.read_text() and not module.name.startswith("__"):
            name = module.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            __import__(name)

    kinds = {kind.kind for kind in _descendants(DomainError)} | set(PROBLEM_KINDS) | set(NOTE_KINDS)
    kinds |= set(raw.NOTE_KINDS)

    assert sorted(kind for kind in kinds if f"`{kind}`" not in explained) == []


def _descendants(parent: type[DomainError]) -> list[type[DomainError]]:
    children = parent.__subclasses__()
    return [*children, *(one for child in children for one in _descendants(child))]
