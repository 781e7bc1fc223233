"""Where a result comes from: the weights that made it, and the versions of what computed."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from app.payloads import ObjectRef
from core.domain.model import WEIGHTS_FILE


def weights_of(files: Mapping[str, ObjectRef]) -> dict[str, str]:
    """Hash of the weights per fold; those of earlier stages and of an ensemble's members by their folders."""
    end = f"/{WEIGHTS_FILE}"
    return {path.removesuffix(end): ref.sha256 for path, ref in files.items() if path.endswith(end)}


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for name in ("nnunet-service", "torch", "numpy", "SimpleITK"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
