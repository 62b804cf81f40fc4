"""Runs in an `MLflow <https://mlflow.org>`_ store: a SQLite file beside the runs, or a server."""

import os
import time
from collections.abc import Mapping
from typing import Any

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.trackers.backend import Backend, Tracked
from efficientai_toolkit.trackers.settings import flatten, format_value

DATABASE = "mlflow.db"
"""Store in the folder of the runs, unless ``MLFLOW_TRACKING_URI`` names another one."""

EXPERIMENT = "efficientai-toolkit"
"""Experiment, unless ``MLFLOW_EXPERIMENT_NAME`` names another one."""

RUN_ID = "efficientai.run_id"
"""Tag by which a resumed run is found again."""

_SETTINGS = {
    # Nothing is told to others.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A server that does not answer is given up soon.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment of MLflow, where the user has not said otherwise."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED"}
_MAX_METRICS, _MAX_PARAMS = 1000, 100
"""Limits of MLflow for one batch."""
_MAX_KEY, _MAX_VALUE = 250, 5000
_HELD_SECS = 3.0


class Mlflow(Backend):
    """A run with parameters, metrics and tags; part of a study is a run nested in it."""

    def __init__(self, tracked: Tracked) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=_find_store(tracked))
        self._held: list[Any] = []
        self._written = time.monotonic()
        experiment = self._find_experiment(tracked)
        self._id, self._last = self._open(tracked, experiment)

    def log(self, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Add metrics, which are written together after a while."""
        from mlflow.entities import Metric

        milliseconds = int(when * 1000)
        self._held += [
            Metric(name, float(value), milliseconds, step)
            for name, value in metrics.items()
            # A store keeps what it has: steps that are trained once more are there already.
            if step > self._last.get(name, -1)
        ]
        if len(self._held) >= _MAX_METRICS or time.monotonic() > self._written + _HELD_SECS:
            self.flush()

    def flush(self) -> None:
        """Write the metrics."""
        while self._held:
            self._client.log_batch(self._id, metrics=self._held[:_MAX_METRICS])
            del self._held[:_MAX_METRICS]
        self._written = time.monotonic()

    def end(self, run: Run) -> None:
        """Write result and status."""
        self.flush()
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        result = [Metric(f"result/{name}"[:_MAX_KEY], float(x), now, 0) for name, x in run.result.items()]
        for start in range(0, len(result), _MAX_METRICS):
            self._client.log_batch(self._id, metrics=result[start : start + _MAX_METRICS])
        if run.error is not None:
            self._client.set_tag(self._id, "error", run.error[:_MAX_VALUE])
        self._client.set_terminated(self._id, _STATUS.get(run.status, "KILLED"))

    def close(self) -> None:
        """Write the metrics that are left."""
        self.flush()

    def _find_experiment(self, tracked: Tracked) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # By default it would be a folder in the current one.
            location = (tracked.runs / "mlartifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _open(self, tracked: Tracked, experiment: str) -> tuple[str, dict[str, int]]:
        """Return the id of the run and the last step of each metric it has."""
        found = self._find(tracked.run, experiment) if tracked.run.resumed is not None else None
        if found is not None:
            self._client.update_run(found.info.run_id, status="RUNNING")
            return found.info.run_id, {name: self._last_step(found, name) for name in found.data.metrics}
        tags = {**tracked.all_tags(), RUN_ID: tracked.run.id}
        parent = self._find(tracked.parent, experiment) if tracked.parent is not None else None
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
        created = self._client.create_run(experiment, tags=tags, run_name=tracked.name)
        self._log_params(created.info.run_id, tracked.run.configuration)
        return created.info.run_id, {}

    def _find(self, run: Run, experiment: str) -> Any:
        query = f"tags.`{RUN_ID}` = '{run.id}'"
        return next(iter(self._client.search_runs([experiment], query, max_results=1)), None)

    def _last_step(self, found: Any, name: str) -> int:
        if name.startswith("result/"):
            return -1
        history = self._client.get_metric_history(found.info.run_id, name)
        return max((metric.step for metric in history), default=-1)

    def _log_params(self, run_id: str, configuration: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [
            Param(name[:_MAX_KEY], format_value(value)[:_MAX_VALUE])
            for name, value in flatten(configuration).items()
        ]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])


def _find_store(tracked: Tracked) -> str:
    if (uri := os.environ.get("MLFLOW_TRACKING_URI")) is not None:
        return uri
    path = tracked.runs / DATABASE
    for ending in ("", "-journal", "-wal", "-shm"):
        refuse_link(path.with_name(path.name + ending))
    if {"?", "%"} & set(str(path)):
        message = f"the address of a store cannot have the path {path}: choose an output without ? and %"
        raise ConfigError(message)
    return f"sqlite:///{path}"


BACKEND = Mlflow
