"""A run of the whole service under load while processes, messages and database fail; every figure must be zero."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "demo"))  # There the servers are.
