"""The engine's own tests, so that one command runs everything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_TAIL = 6000


@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="needs cargo")
def test_cargo_test() -> None:
    # The build script asks this interpreter for the mlx and libclang wheels. The release profile
    # shares its dependencies with the extension module.
    environment = os.environ | {"PYO3_PYTHON": sys.executable}
    outcome = subprocess.run(
        ["cargo", "test", "--workspace", "--locked", "--release"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if outcome.returncode != 0:
        pytest.fail(f"cargo test failed:\n{outcome.stdout[-_TAIL:]}", pytrace=False)
