import re
import sys
from pathlib import Path

import pytest

from core import extensions
from core.errors import ExtensionError, UnknownNameError
from core.extensions import Group
from core.registry import Registry
from tests.core.packages import installed

GROUP = Group.NORMALIZATION


def registry() -> Registry[object]:
    made: Registry[object] = Registry("normalization scheme", GROUP)
    made.register("Own")(len)
    return made


def test_what_a_package_adds_is_listed_without_being_imported(tmp_path: Path) -> None:
    with installed(tmp_path, "made_lazily", "raise SystemExit", {GROUP: {"Added": "made_lazily:scale"}}):
        names = list(registry())

        assert names == ["Own", "Added"]
        assert "Added" in registry()
        assert extensions.names(GROUP) == ("Added",)
        assert "made_lazily" not in sys.modules


def test_what_a_package_adds_is_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    with installed(
        tmp_path, "made_to_load", "def scale(): return 7", {GROUP: {"Added": "made_to_load:scale"}}
    ):
        table = registry()
        added = table.get("Added")

        assert callable(added)
        assert added() == 7
        assert table.get("Added") is added
        assert extensions.givers(GROUP, ["Own", "Added"]) == {"Added": "made_to_load 1.2"}


def test_other_groups_see_nothing_of_it(tmp_path: Path) -> None:
    with installed(tmp_path, "made_elsewhere", "", {Group.LOSS: {"Added": "made_elsewhere:loss"}}):
        assert list(registry()) == ["Own"]

        with pytest.raises(UnknownNameError, match="choose one of: Own"):
            registry().get("Added")


def test_a_registry_without_a_group_is_closed(tmp_path: Path) -> None:
    closed: Registry[int] = Registry("number")
    closed.register("one")(1)

    with installed(tmp_path, "made_in_vain", "two = 2", {GROUP: {"two": "made_in_vain:two"}}):
        assert list(closed) == ["one"]
        with pytest.raises(UnknownNameError, match="'two'"):
            closed.get("two")


def test_an_unknown_name_is_answered_with_those_of_packages_too(tmp_path: Path) -> None:
    with (
        installed(tmp_path, "made_to_be_named", "", {GROUP: {"Added": "made_to_be_named:scale"}}),
        pytest.raises(UnknownNameError, match="choose one of: Added, Own"),
    ):
        registry().get("Other")


@pytest.mark.parametrize(
    ("code", "value", "sentence"),
    [
        ("import no_such_module", "scale", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "scale", "ZeroDivisionError"),
        ("", "scale", "AttributeError"),
        ("scale = 'fast'", "scale", "must be something that can be called, but .*:scale is a str"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, code: str, value: str, sentence: str) -> None:
    package = f"made_broken_{abs(hash(code + value))}"
    with (
        installed(tmp_path, package, code, {GROUP: {"Added": f"{package}:{value}"}}),
        pytest.raises(ExtensionError, match=sentence) as caught,
    ):
        registry().get("Added")

    assert f"'Added' of {package} 1.2" in caught.value.message
    assert caught.value.context["packages"] == [f"{package} 1.2"]


def test_a_record_is_wanted_where_functions_do_not_do(tmp_path: Path) -> None:
    table: Registry[Path] = Registry("path", GROUP, Path)

    with (
        installed(tmp_path, "made_of_text", "path = 'here'", {GROUP: {"here": "made_of_text:path"}}),
        pytest.raises(ExtensionError, match="must be a Path, but made_of_text:path is a str"),
    ):
        table.get("here")


def test_a_name_of_ours_is_not_taken_over(tmp_path: Path) -> None:
    with installed(tmp_path, "made_greedy", "", {GROUP: {"Own": "made_greedy:scale"}}):
        refused = re.escape(
            f"'Own' in {GROUP} is given twice, by made_greedy 1.2 and by nnunet-service itself"
        )
        for ask in (list, lambda table: table.get("Own"), lambda table: "Other" in table):
            with pytest.raises(ExtensionError, match=refused):
                ask(registry())


def test_two_packages_with_the_same_name_are_both_named(tmp_path: Path) -> None:
    with (
        installed(tmp_path / "1", "made_first", "", {GROUP: {"Added": "made_first:scale"}}),
        installed(tmp_path / "2", "made_second", "", {GROUP: {"Added": "made_second:scale"}}),
    ):
        for ask in (list, lambda table: table.get("Added")):
            with pytest.raises(ExtensionError, match=r"by made_first 1\.2 and by made_second 1\.2"):
                ask(registry())

        assert callable(registry().get("Own"))
