"""An app for ``flwr run``: a folder with a project file and two short modules."""

import json
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.files import write_text

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "federated-finetuning"
version = "1.0.0"
description = "Federated fine-tuning of a language model"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["federated_app"]

[tool.flwr.app]
publisher = "efficientai"

[tool.flwr.app.components]
serverapp = "federated_app.server_app:app"
clientapp = "federated_app.client_app:app"

# Settings of federated-learning:run; clients have their own `data` and `model`.
[tool.flwr.app.config]
"""

_MODULE = """\
from efficientai_toolkit.federated.apps import create_{side}_app

app = create_{side}_app()
"""


def write_app(folder: Path, settings: dict[str, Any]) -> None:
    """Write an app whose runs have these settings by default."""
    # JSON's scalars are TOML's.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    write_text(folder / "pyproject.toml", _PROJECT + "".join(lines))
    write_text(folder / "federated_app" / "__init__.py", "")
    for side in ("server", "client"):
        write_text(folder / "federated_app" / f"{side}_app.py", _MODULE.format(side=side))
