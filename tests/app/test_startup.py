"""What an API process loads, and what it never loads."""

import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from app.cli import main

HEAVY = ("torch", "numpy", "scipy", "SimpleITK", "PIL", "tifffile", "safetensors", "cc3d", "worker")


def test_the_api_process_loads_no_engine() -> None:
    code = (
        "import sys, tempfile, pathlib\n"
        "from app.main import create_app\n"
        "from app.settings import Settings\n"
        "create_app(Settings(data_dir=pathlib.Path(tempfile.mkdtemp())))\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    found = CliRunner().invoke(main, ["up", "--data-dir", str(tmp_path / "file" / "data")])

    assert found.exit_code == 1
    assert found.stderr.startswith("nnunet-service: ")
    assert "Traceback" not in found.stderr


def test_the_command_line_loads_neither_api_nor_worker() -> None:
    code = (
        "import sys\nimport app.cli\n"
        "print([name for name in ('torch', 'numpy', 'fastapi', 'worker', 'uvicorn') if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
