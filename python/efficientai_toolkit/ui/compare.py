"""Tab 3: finished runs beside each other, and which one to take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.units import format_duration, format_size
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.settings import EMBEDDED
from efficientai_toolkit.lora.comparison.config import available_methods
from efficientai_toolkit.study.recommend import Alternative, recommend
from efficientai_toolkit.trackers.comparison import compare
from efficientai_toolkit.trackers.history import read_history
from efficientai_toolkit.trackers.runs import RunFolder, find_run, read_runs
from efficientai_toolkit.trackers.settings import format_value
from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.charts import build_plot, choose_colors, make_frame
from efficientai_toolkit.ui.data import BUNDLED, list_choices, to_setting
from efficientai_toolkit.ui.events import POLL_SECS, QUIET, Refresh
from efficientai_toolkit.ui.settings import default_of, suggest_lr
from efficientai_toolkit.ui.workbench import Workbench

EMPTY = html.empty("No finished runs yet", "Train a model in the tab Train: its run appears here.")
CHOOSE = html.empty("Choose the runs to compare", "Select two or more above.")

CURVES = {"Training loss": "train/loss", "Validation loss": "valid/loss"}

_TOLERANCE = 5.0
"""Percent above the lowest loss that are good enough."""

_PREFER = {"Least memory": "memory", "Least time": "time"}
_COLUMNS = (
    "run", "model", "data", "method", "training loss", "validation loss", "time", "peak memory", "tokens/s",
)  # fmt: skip
_MAX_RUNS = 8


def read_finished(bench: Workbench) -> tuple[RunFolder, dict[str, Run]]:
    """Return the trainings of the workspace that have finished, by name, the newest first."""
    bench.workspace.runs.mkdir(exist_ok=True)
    found = read_runs(bench.workspace.runs)
    runs = [run for run in reversed(found.runs) if run.kind == "lora" and run.status == "finished"]
    return found, {found.name(run): run for run in runs}


def render_table(runs: dict[str, Run]) -> str:
    """Return the runs with their results as a table."""
    return html.table(_COLUMNS, [_describe(name, run) for name, run in runs.items()]) if runs else EMPTY


def _describe(name: str, run: Run) -> list[str]:
    result = run.result
    loss, last = result.get("loss_after"), result.get("final_loss")
    seconds, memory = result.get("training_time"), result.get("peak_memory_gb")
    speed = result.get("tokens_per_second")
    bits = run.configuration.get("bits")
    return [
        name,
        _short(run.configuration.get("model_path"), MODEL, EMBEDDED),
        _short(run.configuration.get("data"), INSTRUCTIONS, "bundled"),
        f"{run.configuration.get('method')}{f', {bits} bits' if bits else ''}",
        "–" if last is None else f"{last:.4f}",
        "–" if loss is None else f"{loss:.4f}",
        "–" if seconds is None else format_duration(seconds),
        "–" if memory is None else format_size(memory * 1e9),
        "–" if speed is None else f"{speed:,.0f}",
    ]


def _short(path: object, bundled: Path, name: str) -> str:
    return name if path in (None, str(bundled)) else str(path).rpartition("/")[2]


def render_advice(runs: dict[str, Run], prefer: str) -> str:
    """Return which run to take, and why."""
    data = {run.data.get("sha256") for run in runs.values()}
    if len(data) > 1:
        return html.note("These runs learned from different data, so that their losses do not compare.")
    cost = _PREFER[prefer]
    name = "peak_memory_gb" if cost == "memory" else "training_time"
    alternatives = [
        Alternative(name=run, loss=one.result["loss_after"], cost=one.result[name])
        for run, one in runs.items()
        if "loss_after" in one.result and name in one.result
    ]
    if not alternatives:
        return html.note("No run has a validation loss, by which one could be recommended.")
    found = recommend(
        alternatives,
        tolerance=_TOLERANCE,
        cost=cost,
        show=lambda value: format_size(value * 1e9) if cost == "memory" else format_duration(value),
    )
    return html.cards([("recommended", str(found.method))]) + html.note(f"Why: {found.reason}.")


def render_differences(runs: dict[str, Run]) -> str:
    """Return the settings that differ as a table."""
    found = compare(*runs.values())
    rows = [
        (name, *("–" if value is None else format_value(value) for value in values))
        for name, values in found.settings.items()
        if not name.startswith(("environment.", "hardware."))
    ]
    if not rows:
        return html.note("These runs have the same settings.")
    return html.title("Settings that differ") + html.table(("setting", *runs), rows)


class CompareTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr = self._gr
        table = gr.HTML(EMPTY, elem_id="compare-table")
        with gr.Row():
            runs = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                max_choices=_MAX_RUNS,
                label="Runs to compare",
                allow_custom_value=True,
                scale=3,
                min_width=260,
                elem_id="compare-runs",
            )
            curve = gr.Radio(list(CURVES), value="Training loss", label="Curve", scale=1, min_width=160)
            prefer = gr.Radio(
                list(_PREFER),
                value="Least memory",
                label="Prefer",
                scale=1,
                min_width=160,
            )
        report = gr.HTML(CHOOSE, elem_id="compare-report")
        plot = build_plot(gr, "Training loss", visible=False)
        with gr.Accordion("Let the toolkit compare methods for you", open=False):
            self._build_study()
        inputs = [runs, curve, prefer]
        for field in inputs:
            field.change(self.show, inputs, [report, plot], **QUIET)
        timer, seen = gr.Timer(POLL_SECS), gr.State("")
        timer.tick(self.watch, [runs, seen], [runs, table, seen], **QUIET)
        return Refresh(self.refresh, [runs], [runs, table])

    def _build_study(self) -> None:
        gr, bench = self._gr, self._bench
        models = bench.list_models()
        gr.HTML(html.note("Trains the same data with each method, and recommends one."))
        with gr.Row():
            model = gr.Dropdown(models, value=models[0], label="Model", allow_custom_value=True)
            data = gr.Dropdown(list_choices(bench), value=BUNDLED, label="Data set", allow_custom_value=True)
            steps = gr.Number(20, label="Steps per method", minimum=1, precision=0)
        methods = gr.CheckboxGroup(
            list(available_methods()), value=["lora", "qlora", "dora"], label="Methods"
        )
        start = gr.Button("Compare methods", variant="primary", elem_id="compare-start")
        state = gr.HTML("")
        timer, seen = gr.Timer(POLL_SECS), gr.State("")
        start.click(self.start, [model, data, steps, methods], None, **QUIET)
        timer.tick(self.show_study, seen, [state, seen], **QUIET)
        for field in (model, data):
            field.focus(self.offer, [model, data], [model, data], **QUIET)

    def offer(self, model: str, data: str) -> tuple[Any, Any]:
        """Offer the models and the data sets that there are."""
        gr, bench = self._gr, self._bench
        return gr.Dropdown(bench.list_models(), value=model), gr.Dropdown(list_choices(bench), value=data)

    def start(self, model: str, data: str | None, steps: float, methods: Sequence[str]) -> None:
        """Queue a comparison."""
        rate = suggest_lr(model, "LoRA")
        settings: dict[str, Any] = {"model_path": model, "iters": int(steps or 20), "methods": list(methods)}
        settings |= {"plots": False} | ({} if rate == default_of("lr") else {"lr": rate})
        if (chosen := to_setting(data)) is not None:
            settings["data"] = chosen
        try:
            self._bench.jobs.submit("compare", settings)
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="The comparison cannot start")

    def show_study(self, seen: str) -> tuple[Any, str]:
        """Show the last comparison of methods."""
        jobs = self._bench.list_jobs("compare")
        if not jobs:
            return self._gr.skip(), seen
        job = jobs[0]
        text = html.progress(job, self._bench.monitor.read(job.id), name="Comparison of methods")
        if job.result is not None:
            text += html.note(f"{job.result['recommendation']['reason']}.")
            rows = [
                (
                    row["method"],
                    row["error"] or f"{row['loss_after']:.4f}",
                    "–" if row["seconds"] is None else format_duration(row["seconds"]),
                    "–" if row["peak_memory_gb"] is None else format_size(row["peak_memory_gb"] * 1e9),
                )
                for row in job.result["rows"]
            ]
            text += html.table(("method", "validation loss", "time", "peak memory"), rows)
        return (self._gr.skip() if text == seen else text), text

    def show(self, names: Sequence[str], curve: str, prefer: str) -> tuple[str, Any]:
        """Show runs beside each other."""
        gr = self._gr
        try:
            runs = {
                name: find_run(name, self._bench.workspace.runs) for name in list(names or [])[:_MAX_RUNS]
            }
        except ToolkitError as problem:
            return html.error(str(problem)), gr.LinePlot(visible=False)
        if not runs:
            return CHOOSE, gr.LinePlot(visible=False)
        curves = {name: read_history(run).curves.get(CURVES[curve], []) for name, run in runs.items()}
        plot = gr.LinePlot(
            make_frame(curves), title=curve, color_map=choose_colors(list(curves)), visible=True
        )
        if len(runs) == 1:
            return html.note("Select another run to compare this one with."), plot
        return render_advice(runs, prefer) + render_differences(runs), plot

    def watch(self, chosen: Sequence[str], seen: str) -> tuple[Any, Any, str]:
        """Offer runs that have finished since."""
        offered, table = self.refresh(chosen)
        if table == seen:
            return self._gr.skip(), self._gr.skip(), seen
        return offered, table, table

    def refresh(self, chosen: Sequence[str]) -> tuple[Any, str]:
        """Offer the runs there are; a new page compares the last ones."""
        _, runs = read_finished(self._bench)
        kept = [name for name in chosen or [] if name in runs] or list(runs)[:2]
        return self._gr.Dropdown(list(runs), value=kept), render_table(runs)
