"""What the tabs work on: the workspace, its jobs and models, and the server's engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.jobs.queue import Jobs
from efficientai_toolkit.jobs.settings import EMBEDDED
from efficientai_toolkit.registry.registry import Registry
from efficientai_toolkit.server.generation import Service
from efficientai_toolkit.ui.config import PageConfig
from efficientai_toolkit.ui.monitor import Monitor
from efficientai_toolkit.workspace.folder import Workspace

_LISTED = 200
"""Jobs among which a tab looks."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Adapter:
    """An adapter that a model can have."""

    name: str
    path: Path
    model: str
    """Name of its model."""


@dataclass(kw_only=True, slots=True)
class Workbench:
    """The workspace and the server of a page."""

    config: PageConfig
    jobs: Jobs
    registry: Registry
    service: Service
    monitor: Monitor = field(init=False)

    def __post_init__(self) -> None:
        self.monitor = Monitor(self.jobs)

    @classmethod
    def of(cls, app: FastAPI, config: PageConfig) -> "Workbench":
        """Return the workbench of a server that has a workspace."""
        jobs: Jobs = app.state.jobs
        return cls(config=config, jobs=jobs, registry=Registry(jobs.workspace), service=app.state.service)

    @property
    def workspace(self) -> Workspace:
        """The workspace."""
        return self.jobs.workspace

    def list_models(self) -> list[str]:
        """Return the names of models: those that the server was started with, and registered ones."""
        served = [one.name for one in self.service.pool.list_served()]
        registered = {one.name for one in self.registry.list_versions() if one.kind == "model"}
        return [*served, *sorted(registered - set(served))]

    def find_model(self, name: str) -> Path | None:
        """Return the folder of a model by its name."""
        return self.jobs.rules.find_model(name) or (MODEL if name == EMBEDDED else None)

    def list_data(self) -> list[str]:
        """Return the uploaded data sets, relative to the workspace."""
        folder = self.workspace.data
        if not folder.is_dir():
            return []
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        return [f"{folder.name}/{name}" for name in names]

    def list_jobs(self, *kinds: str) -> list[Job]:
        """Return the last jobs of these kinds, the newest first."""
        found = [job for kind in kinds for job in self.jobs.list(kind=kind, limit=_LISTED)]
        return sorted(found, key=lambda job: -job.id)

    def list_adapters(self) -> list[Adapter]:
        """Return the adapters of finished runs, of the registry, and of the options of the server."""
        found = [
            Adapter(name=name, path=path, model=served.name)
            for served in self.service.pool.list_served()
            for name, path in served.adapters.items()
        ]
        for job in self.list_jobs("train"):
            path = find_adapter(job, self.workspace)
            if path is not None:
                found.append(Adapter(name=path.name, path=path, model=model_of(job.settings)))
        models = {self.find_model(name): name for name in reversed(self.list_models())}
        for version in self.registry.list_versions():
            base = None if version.base is None else Path(version.base)
            if version.kind == "adapter" and base in models:
                found.append(Adapter(name=version.reference, path=version.path, model=models[base]))
        return found


def model_of(settings: Mapping[str, Any]) -> str:
    """Return the model that settings name, by default the bundled one."""
    return settings.get("model_path") or EMBEDDED


def find_adapter(job: Job, workspace: Workspace) -> Path | None:
    """Return the folder of the adapter that a training has left; ``None`` if it is whole weights, or gone."""
    if job.state != "finished" or job.result is None:
        return None
    if job.settings.get("method") == "full" or job.settings.get("qat_bits") is not None:
        return None
    path = workspace.path / str(job.result.get("adapter_path"))
    return path if (path / "adapter_config.json").is_file() else None
