"""What an API process loads, and what it never loads."""

import subprocess
import sys

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


def test_the_command_line_loads_neither_api_nor_worker() -> None:
    code = (
        "import sys\nimport app.cli\n"
        "print([name for name in ('torch', 'numpy', 'fastapi', 'worker', 'uvicorn') if name in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
