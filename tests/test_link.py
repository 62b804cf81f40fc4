import re
import sys
import tomllib
from pathlib import Path

import pytest

from efficientai_toolkit._engine import link
from efficientai_toolkit.exceptions import DependencyError

ROOT = Path(__file__).parents[1]


def test_the_right_version_passes() -> None:
    link.check_version(link.MLX_VERSION)


def test_another_version_names_both_and_the_command() -> None:
    with pytest.raises(DependencyError) as caught:
        link.check_version("0.33.0", "0.32.2")
    message = str(caught.value)
    assert "needs mlx 0.32.2" in message
    assert "mlx 0.33.0 is installed" in message
    assert re.search(r"`pip install .*mlx.*==0\.32\.2\"?`", message)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("backends", "platform", "command"),
    [
        ([], "darwin", "pip install mlx==0.32.2"),
        ([], "linux", 'pip install "mlx[cpu]==0.32.2"'),
        (["mlx-cpu"], "linux", 'pip install "mlx[cpu]==0.32.2"'),
        (["mlx-cuda-12"], "linux", 'pip install "mlx[cuda12]==0.32.2"'),
    ],
)
def test_the_command_keeps_the_backend(backends: list[str], platform: str, command: str) -> None:
    assert link.suggest_command(backends, platform) == command


def test_installed_backends() -> None:
    assert link.list_backends(lambda name: name == "mlx-cuda-12") == ["mlx-cuda-12"]
    assert link.list_backends(lambda _: False) == []


def test_two_backends_overwrite_each_other() -> None:
    link.check_backends(["mlx-cpu"])
    link.check_backends([])
    with pytest.raises(DependencyError, match=r"uninstall -y mlx-cpu && .* mlx-cuda-13==0\.32\.2"):
        link.check_backends(["mlx-cpu", "mlx-cuda-13"])


def test_a_missing_mlx_is_a_dependency_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "efficientai_toolkit._engine.core", raising=False)
    with pytest.raises(DependencyError, match=r"cannot import mlx\.core .*pip install"):
        import efficientai_toolkit._engine.core  # noqa: F401


def test_a_missing_engine_is_a_dependency_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core")
    monkeypatch.setitem(sys.modules, "efficientai_toolkit._core", None)
    monkeypatch.delitem(sys.modules, "efficientai_toolkit._engine.core", raising=False)
    with pytest.raises(DependencyError, match=r"_core cannot be loaded .*reinstall"):
        import efficientai_toolkit._engine.core  # noqa: F401


def test_one_version_stands_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    crate = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == crate["workspace"]["package"]["version"]
    requirements = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["cuda12"],
        *project["project"]["optional-dependencies"]["cuda13"],
    ]
    pins = {match[1] for text in requirements if (match := re.match(r"mlx(?:\[\w+\])?==([\d.]+)", text))}
    wheel = (ROOT / "crates/mlx-wheel/src/lib.rs").read_text(encoding="utf-8")
    assert pins == {link.MLX_VERSION}
    assert f'VERSION: &str = "{link.MLX_VERSION}"' in wheel
