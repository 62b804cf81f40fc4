"""Tab 2: trainings, set up, started and watched."""

from collections.abc import Mapping
from typing import Any

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.charts import build_plot, list_curves
from efficientai_toolkit.ui.data import BUNDLED, find_last, list_choices
from efficientai_toolkit.ui.events import POLL_SECS, QUIET, Refresh
from efficientai_toolkit.ui.form import TrainingForm
from efficientai_toolkit.ui.monitor import View
from efficientai_toolkit.ui.settings import format_command, format_yaml, make_absolute
from efficientai_toolkit.ui.workbench import Workbench, model_of

EMPTY = html.empty("No training yet", "Choose a model and a data set, and press Start training.")


def describe(bench: Workbench, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return settings as a command line and as YAML."""
    data = settings.get("data")
    paths = {
        "model_path": bench.find_model(model_of(settings)),
        "data": None if data is None else bench.workspace.path / str(data),
    }
    outside = make_absolute(settings, {name: path for name, path in paths.items() if name in settings})
    return format_command(outside), format_yaml(outside)


def name_run(job: Job) -> str:
    """Return the name of the run of a job."""
    return job.output.rpartition("/")[2]


def list_runs(bench: Workbench) -> list[tuple[str, int]]:
    """Return the trainings with their numbers, the running one first, then the newest."""
    jobs = sorted(bench.list_jobs("train"), key=lambda job: (job.state != "running", -job.id))
    return [(f"{name_run(job)}: {model_of(job.settings)}, {_name_data(job)}", job.id) for job in jobs]


def _name_data(job: Job) -> str:
    return str(job.settings.get("data") or BUNDLED).rpartition("/")[2]


def render(bench: Workbench, job: Job | None) -> tuple[str, View]:
    """Return the state of a training with its figures, and what its events tell."""
    if job is None:
        return EMPTY, View()
    view = bench.monitor.read(job.id)
    text = html.progress(job, view, name=name_run(job))
    values: list[tuple[str, str]] = []
    if view.steps:
        last = view.steps[-1]
        values = [
            ("training loss", f"{last['loss']:.4f}"),
            ("learning rate", f"{last['lr']:.2e}"),
            ("tokens per second", f"{last['tokens_per_second']:,.0f}"),
            ("peak memory", f"{last['memory']:.2f} GB"),
        ]
    if view.evaluations:
        before, now = view.evaluations[0]["loss"], view.evaluations[-1]["loss"]
        values.append(
            ("validation loss", f"{before:.3f} → {now:.3f}" if len(view.evaluations) > 1 else f"{now:.3f}")
        )
    return text + html.cards(values), view


class TrainTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench
        self._form = TrainingForm(gr, bench)

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr, form = self._gr, self._form
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                form.build()
                with gr.Row():
                    start = gr.Button(
                        "Start training", variant="primary", elem_id="train-start", min_width=130
                    )
                    estimate = gr.Button("Estimate memory", min_width=130)
                memory = gr.HTML(visible=False)
                with gr.Accordion("These settings as a command or YAML", open=False):
                    options = {"wrap_lines": True, "show_line_numbers": False}
                    command = gr.Code(label="Command", language="shell", interactive=False, **options)
                    yaml = gr.Code(
                        label="YAML", language="yaml", interactive=True, elem_id="train-yaml", **options
                    )
                    gr.HTML(html.note("Edit or paste YAML here to set everything that has no field above."))
                    use = gr.Button("Load settings from this YAML", size="sm")
            with gr.Column(scale=5, min_width=320):
                run = gr.Dropdown(
                    list_runs(self._bench),
                    value=None,
                    label="Run",
                    allow_custom_value=True,
                    elem_id="train-run",
                )
                with gr.Row():
                    stop = gr.Button("Stop", size="sm", interactive=False, min_width=90)
                    resume = gr.Button("Resume", size="sm", interactive=False, min_width=90)
                state = gr.HTML(EMPTY, elem_id="train-state")
                with gr.Group(visible=False) as charts:
                    with gr.Row():
                        plots = [build_plot(gr, "Loss"), build_plot(gr, "Learning rate", color=None)]
                    with gr.Row():
                        plots += [
                            build_plot(gr, "Tokens per second", color=None),
                            build_plot(gr, "Peak memory, GB", color=None),
                        ]
                with gr.Accordion("Log, newest first", open=False, elem_id="train-log"):
                    log = gr.Textbox(
                        show_label=False, lines=10, max_lines=10, autoscroll=False, elem_classes="eat-log"
                    )
        timer = gr.Timer(POLL_SECS)
        seen, checked = gr.State(None), gr.State(None)
        shown = [state, charts, *plots, log, stop, resume, seen]
        for field in form.fields:
            field.change(self.write, form.values, [command, yaml], **QUIET)
        use.click(self.load, yaml, form.values, **QUIET)
        start.click(self.start, form.values, run, **QUIET)
        estimate.click(self.estimate, form.values, checked, **QUIET)
        stop.click(self.stop, run, None, **QUIET)
        resume.click(self.resume, run, None, **QUIET)
        run.change(self.show, [run, seen], shown, **QUIET)
        timer.tick(self.show, [run, seen], shown, **QUIET)
        timer.tick(self.show_memory, checked, memory, **QUIET)
        return Refresh(self.refresh, [run, *form.choices], [run, *form.choices])

    def write(self, *values: Any) -> tuple[Any, Any]:
        """Write the settings of the form as a command and as YAML."""
        try:
            return describe(self._bench, self._form.read(values))
        except ToolkitError as problem:
            return f"# {problem}", self._gr.skip()

    def load(self, text: str) -> Any:
        """Fill the form from YAML."""
        try:
            return self._form.fill(text)
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="These settings cannot be loaded")
            return [self._gr.skip() for _ in self._form.values]

    def start(self, *values: Any) -> Any:
        """Queue a training, and watch it."""
        try:
            job = self._bench.jobs.submit("train", self._form.read(values))
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="The training cannot start")
            return self._gr.skip()
        return self._gr.Dropdown(list_runs(self._bench), value=job.id)

    def estimate(self, *values: Any) -> int | None:
        """Queue an estimate of the memory."""
        try:
            return self._bench.jobs.submit("validate", self._form.read(values)).id
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="The memory cannot be estimated")
            return None

    def show_memory(self, number: int | None) -> Any:
        """Show the estimate."""
        if number is None:
            return self._gr.skip()
        job = self._bench.jobs.get(number)
        if job.result is None:
            view = self._bench.monitor.read(job.id)
            return self._gr.HTML(html.progress(job, view, name="Estimating memory"), visible=True)
        found = job.result["memory"]
        if found is None:
            return self._gr.HTML(html.error(job.result["memory_error"]), visible=True)
        values = [("estimated peak memory", found["peak"]), ("this machine has", found["available"])]
        text = html.cards((name, format_size(size)) for name, size in values)
        return self._gr.HTML(text, visible=True)

    def stop(self, number: Any) -> None:
        """Stop a training, which keeps its last checkpoint."""
        self._change(lambda: self._bench.jobs.cancel(number))

    def resume(self, number: Any) -> None:
        """Continue a training from its last checkpoint."""
        self._change(lambda: self._bench.jobs.resume(number))

    def _change(self, act: Any) -> None:
        try:
            act()
        except ToolkitError as problem:
            self._gr.Warning(str(problem))

    def show(self, number: Any, seen: Any) -> list[Any]:
        """Show what is new of a training."""
        gr = self._gr
        job = self._find(number)
        text, view = render(self._bench, job)
        now = [None if job is None else job.id, text, view.last]
        if now == seen:
            return [gr.skip() for _ in range(10)]
        state = None if job is None else job.state
        return [
            text,
            gr.Group(visible=bool(view.steps)),
            *list_curves(view),
            "\n".join(reversed(view.log)),
            gr.Button(interactive=state in {"running", "queued"}),
            gr.Button(interactive=state in {"cancelled", "failed", "interrupted"}),
            now,
        ]

    def _find(self, number: Any) -> Job | None:
        if not isinstance(number, int):
            return None
        try:
            return self._bench.jobs.get(number)
        except ToolkitError:
            # It was deleted.
            return None

    def refresh(self, number: Any, model: str, data: str | None) -> tuple[Any, Any, Any]:
        """Offer what there is; a new page shows the running training, or the last one."""
        runs = list_runs(self._bench)
        if number not in {known for _, known in runs}:
            number = runs[0][1] if runs else None
        models, sets = self._bench.list_models(), list_choices(self._bench)
        gr = self._gr
        return (
            gr.Dropdown(runs, value=number),
            gr.Dropdown(models, value=model if model in models else models[0]),
            gr.Dropdown(sets, value=data if data in sets else find_last(self._bench)),
        )
