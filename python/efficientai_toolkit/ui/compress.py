"""Tab 6: a model made smaller within a budget, with the front and the report."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.jobs.settings import EMBEDDED
from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.events import POLL_SECS, QUIET, Refresh
from efficientai_toolkit.ui.exports import FOLDER
from efficientai_toolkit.ui.workbench import Workbench

EMPTY = html.empty("No compression yet", "Choose a model and a budget above, and press Compress.")

_NO_TRAINING = "No training"
_COLUMNS = ("candidate", "size", "loss", "top-1", "decode, tokens/s", "faster", "front")
_REPORT = Path("compression") / "report.html"
_FRONT = Path("compression") / "front.png"


def plan_settings(
    model: str, size: float, latency: float, loss: float, data: str | None
) -> dict[str, object]:
    """Return the settings of a job; a limit of 1 is none.

    ``data`` is the name of a data set, which is trained on after pruning.
    """
    limits = {name: value for name, value in (("size", size), ("latency", latency)) if value < 1}
    settings: dict[str, object] = {"model_path": model, "max_loss": f"{loss:g}%"}
    if limits:
        settings["budget"] = ",".join(f"{name}={value:g}" for name, value in limits.items())
    if data is not None:
        settings |= {"data": data, "calibration": data}
    return settings


def render_result(job: Job) -> str:
    """Return the choice and the candidates of a finished job."""
    if job.result is None:
        return ""
    found = job.result
    title = "Recommended" if found["meets_budget"] else "Nearest to the budget"
    parts = [html.title(f"{title}: {found['chosen'] or 'none'}"), html.note(f"{found['reason']}.")]
    rows = [_describe(row) for row in found["rows"] if row["perplexity"] is not None]
    parts.append(html.table(_COLUMNS, rows))
    return "".join(parts)


def _describe(row: dict[str, Any]) -> Sequence[str]:
    ratio, speed = row["latency_ratio"], row["decode_tokens_per_second"]
    return (
        row["variant"],
        format_size(row["size_bytes"]),
        f"{row['perplexity_increase']:+.2%}",
        f"{row['top_agreement']:.1%}",
        "–" if speed is None else f"{speed:,.1f}",
        "–" if ratio is None else f"{1 / ratio:.2f}×",
        "*" if row["on_front"] else "",
    )


def hand_out(bench: Workbench, job: Job) -> tuple[str | None, str | None]:
    """Copy the plot of the front and the report to where the page hands files out; return their paths."""
    folder = bench.workspace.path / FOLDER
    paths: list[str | None] = []
    for part in (_FRONT, _REPORT):
        source = bench.workspace.path / job.output / part
        if job.state != "finished" or not source.is_file() or source.is_symlink():
            paths.append(None)
            continue
        folder.mkdir(exist_ok=True)
        target = folder / f"{Path(job.output).name}-{part.name}"
        shutil.copyfile(source, target)
        paths.append(str(target))
    return paths[0], paths[1]


class CompressTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr = self._gr
        with gr.Row():
            model = gr.Dropdown([EMBEDDED], value=EMBEDDED, label="Model", elem_id="compress-model")
            data = gr.Dropdown(
                [], value=None, label="Data to train on after pruning", elem_id="compress-data"
            )
        with gr.Row():
            size = gr.Slider(0.1, 1, value=0.35, step=0.01, label="Size, of the original's")
            latency = gr.Slider(0.1, 1, value=1, step=0.01, label="Time per token, of the original's")
            loss = gr.Slider(0.5, 20, value=2, step=0.5, label="Largest loss, % of the perplexity")
        start = gr.Button("Compress", variant="primary", elem_id="compress-start")
        shown = gr.HTML(EMPTY, elem_id="compress-result")
        front = gr.Image(label="Front", visible=False, elem_id="compress-front")
        report = gr.File(label="Report", visible=False, elem_id="compress-report")
        timer, seen = gr.Timer(POLL_SECS), gr.State("")
        start.click(self.start, [model, data, size, latency, loss], None, **QUIET)
        timer.tick(self.show, seen, [shown, front, report, seen], **QUIET)
        return Refresh(self.refresh, [model, data], [model, data])

    def start(self, model: str | None, data: str | None, size: float, latency: float, loss: float) -> None:
        """Queue a compression."""
        chosen = None if data in (None, _NO_TRAINING) else data
        try:
            self._bench.jobs.submit("compress", plan_settings(model or EMBEDDED, size, latency, loss, chosen))
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="The compression cannot start")

    def show(self, seen: str) -> list[Any]:
        """Show the last compression."""
        gr = self._gr
        jobs = self._bench.list_jobs("compress")
        if not jobs:
            return [gr.skip(), gr.skip(), gr.skip(), seen]
        job = jobs[0]
        name = f"Compress {job.settings.get('model_path') or EMBEDDED}"
        text = html.progress(job, self._bench.monitor.read(job.id), name=name) + render_result(job)
        if text == seen:
            return [gr.skip(), gr.skip(), gr.skip(), seen]
        front, report = hand_out(self._bench, job)
        return [
            text,
            gr.Image(front, visible=front is not None),
            gr.File(report, visible=report is not None),
            text,
        ]

    def refresh(self, model: str | None, data: str | None) -> list[Any]:
        """Offer the models and data sets there are."""
        models, sets = self._bench.list_models(), [_NO_TRAINING, *self._bench.list_data()]
        return [
            self._gr.Dropdown(models, value=model if model in models else (models or [EMBEDDED])[0]),
            self._gr.Dropdown(sets, value=data if data in sets else _NO_TRAINING),
        ]
