"""Tab 1: data sets, checked and shown as the model will see them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.events import POLL_SECS, QUIET, Refresh
from efficientai_toolkit.ui.uploads import ENDINGS, delete_data, store_upload
from efficientai_toolkit.ui.workbench import Workbench, model_of

BUNDLED = "Example: bundled instructions"
"""Choice that stands for the data of the package."""

_SPLITS = {"train": "Training", "valid": "Validation", "test": "Test"}

EMPTY = html.empty(
    "No data set is chosen yet",
    "Upload a file, or choose the bundled example, and press Check.",
)


def list_choices(bench: Workbench) -> list[str]:
    """Return the data sets of the workspace, and the bundled one."""
    return [*bench.list_data(), BUNDLED]


def to_setting(choice: str | None) -> str | None:
    """Return the setting ``data`` of a choice."""
    return None if not choice or choice == BUNDLED else choice


def upload(bench: Workbench, source: str | Path, name: str, model: str) -> str:
    """Store an uploaded file and begin to check it; return its path in the workspace.

    Raises
    ------
    ToolkitError
        If it is no data set.
    """
    stored = store_upload(bench.workspace, Path(source), name, limit=bench.config.max_upload_bytes)
    check(bench, stored, model)
    return stored


def check(bench: Workbench, choice: str | None, model: str) -> Job:
    """Queue the check of a data set with the tokenizer of a model."""
    settings: dict[str, Any] = {"model_path": model}
    if (data := to_setting(choice)) is not None:
        settings["data"] = data
    return bench.jobs.submit("validate", settings)


def find_check(bench: Workbench, choice: str | None, model: str) -> Job | None:
    """Return the last check of a data set with a model."""
    data = to_setting(choice)
    return next(
        (
            job
            for job in bench.list_jobs("validate")
            if job.settings.get("data") == data and model_of(job.settings) == model
        ),
        None,
    )


def find_last(bench: Workbench) -> str | None:
    """Return the data set that was checked last, if it is still there."""
    checks = bench.list_jobs("validate")
    last = checks[0].settings.get("data") or BUNDLED if checks else None
    return last if last in list_choices(bench) else None


def render(bench: Workbench, choice: str | None, model: str) -> str:
    """Return what is known about a data set."""
    job = find_check(bench, choice, model) if choice else None
    if job is None:
        return EMPTY if not choice else html.empty("Not checked yet", "Press Check to read this data set.")
    if job.result is None:
        return html.progress(job, bench.monitor.read(job.id), name=f"Checking {choice}")
    parts = [html.note(f"{choice}, as the tokenizer of {model} splits it")]
    splits = job.result["splits"]
    for split, numbers in splits.items():
        if numbers["rows"]:
            parts += [html.title(f"{_SPLITS[split]} rows"), _render_split(numbers)]
    parts += [html.title("Training rows by number of tokens"), html.histogram(splits["train"]["histogram"])]
    parts.append(html.title("First rows as the model sees them"))
    parts.append(html.note("Marked: what the model learns to write. The rest is only read."))
    parts += [html.example(row) for row in job.result["examples"]]
    return "".join(parts)


def _render_split(numbers: Mapping[str, Any]) -> str:
    lengths = numbers["lengths"]
    learned = numbers["trained_tokens"] / max(numbers["kept_tokens"], 1)
    values = [
        ("rows", f"{numbers['rows']:,}"),
        ("tokens", f"{numbers['tokens']:,}"),
        ("median length", f"{lengths['median']:,}"),
        ("longest row", f"{lengths['max']:,}"),
        ("tokens learned", f"{learned:.0%}"),
        ("duplicates", f"{numbers['duplicates']:,}"),
        ("too long, cut", f"{numbers['truncated']:,}"),
    ]
    if numbers["dropped"]:
        values.append(("left out", f"{numbers['dropped']:,}"))
    return html.cards(values)


class DataTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr, bench = self._gr, self._bench
        models = bench.list_models()
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                file = gr.File(
                    label="Upload a file",
                    file_types=list(ENDINGS),
                    height=150,
                    elem_id="data-upload",
                )
                data = gr.Dropdown(
                    list_choices(bench),
                    value=None,
                    label="Data set",
                    allow_custom_value=True,
                    elem_id="data-choice",
                )
                model = gr.Dropdown(
                    models, value=models[0], label="Model whose tokenizer reads it", allow_custom_value=True
                )
                with gr.Row():
                    button = gr.Button("Check", variant="primary", elem_id="data-check", min_width=100)
                    delete = gr.Button("Delete file", min_width=100)
                with gr.Accordion("File formats", open=False):
                    gr.Markdown(_FORMATS)
            with gr.Column(scale=5, min_width=320):
                shown = gr.HTML(EMPTY, elem_id="data-report")
        timer = gr.Timer(POLL_SECS)
        seen = gr.State("")
        file.upload(self.take, [file, model], [data, file], **QUIET)
        button.click(self.begin, [data, model], None, **QUIET)
        delete.click(self.remove, data, data, **QUIET)
        for event in (timer.tick, data.change, model.change):
            event(self.show, [data, model, seen], [shown, seen], **QUIET)
        return Refresh(self.refresh, [data, model], [data, model])

    def take(self, path: str | None, model: str) -> tuple[Any, Any]:
        """Store an uploaded file, and check it."""
        if path is None:
            return self._gr.skip(), self._gr.skip()
        try:
            stored = upload(self._bench, path, Path(path).name, model)
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="This file cannot be used")
            return self._gr.skip(), None
        finally:
            Path(path).unlink(missing_ok=True)
        return self._gr.Dropdown(list_choices(self._bench), value=stored), None

    def begin(self, choice: str | None, model: str) -> None:
        """Check a data set again."""
        if not choice:
            self._gr.Warning("Choose a data set first.")
            return
        try:
            check(self._bench, choice, model)
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title="This data set cannot be checked")

    def remove(self, choice: str | None) -> Any:
        """Delete an uploaded file."""
        try:
            delete_data(self._bench.workspace, choice or "")
        except ToolkitError as problem:
            self._gr.Warning(str(problem))
            return self._gr.skip()
        return self._gr.Dropdown(list_choices(self._bench), value=None)

    def show(self, choice: str | None, model: str, before: str) -> tuple[Any, str]:
        """Show what is known by now."""
        text = render(self._bench, choice, model)
        return (self._gr.skip() if text == before else text), text

    def refresh(self, choice: str | None, model: str) -> tuple[Any, Any]:
        """Offer what there is; a new page shows the last data set that was checked."""
        names = list_choices(self._bench)
        return (
            self._gr.Dropdown(names, value=choice if choice in names else find_last(self._bench)),
            self._gr.Dropdown(self._bench.list_models(), value=model),
        )


_FORMATS = """
A row is one example. These column names are understood:

| columns | for |
|---|---|
| `messages` | conversations, as in OpenAI's format (models with a chat template) |
| `prompt`, `completion` | questions and answers |
| `text` | plain text |
| `prompt`, `chosen`, `rejected` | preferences (DPO, ORPO) |

```
{"prompt": "What is the capital of France?", "completion": "Paris."}
```
"""
