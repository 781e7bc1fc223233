"""The code of recipes, taken out of the documentation as it stands there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def blocks(document: str, language: str = "python") -> list[str]:
    """Return the code blocks of a document of docs/, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / document).read_text(), re.DOTALL | re.MULTILINE)
