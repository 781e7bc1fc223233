"""Packages made for a test: their code and metadata, found by Python as if pip had put them there."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import extensions


@contextmanager
def installed(
    folder: Path, package: str, code: str, entries: Mapping[str, Mapping[str, str]]
) -> Iterator[None]:
    """Install a package while the context is open.

    Args:
        folder: Empty; where it goes.
        package: Its name, also that of its only module.
        code: Of the module.
        entries: Group → name → object reference.
    """
    metadata = folder / f"{package}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{package}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = [
        line
        for group, given in entries.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in given.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.invalidate_caches()
        extensions.forget()
        yield
    extensions.forget()
