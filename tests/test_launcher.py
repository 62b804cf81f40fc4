"""The console script, where the package itself cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = "from efficientai_toolkit_launcher import main; raise SystemExit(main())"


@pytest.mark.parametrize("words", [["info"], ["info", "--json"]], ids=" ".join)
def test_another_mlx_gives_one_line(tmp_path: Path, words: list[str]) -> None:
    fake = tmp_path / "mlx"
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    (fake / "core.py").write_text('__version__ = "0.30.1"\n')
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *words],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in ("0.30.1", "0.32.2", "pip install"))
    if "--json" in words:
        assert json.loads(done.stdout)["error"] == "DependencyError"
