"""Tab 5: models and adapters: downloaded, registered, merged, exported."""

from collections.abc import Callable, Sequence
from typing import Any

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.exports.formats import FORMATS
from efficientai_toolkit.hub import is_hub_id
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.jobs.settings import EMBEDDED
from efficientai_toolkit.ui import html
from efficientai_toolkit.ui.events import POLL_SECS, QUIET, Refresh
from efficientai_toolkit.ui.exports import pack
from efficientai_toolkit.ui.workbench import Adapter, Workbench

EMPTY = html.empty(
    "No registered models yet",
    "Register a finished run below, or download a model from the Hugging Face hub.",
)

_WORK = ("download", "fuse", "convert", "quantize", "export")
"""Kinds of jobs that this tab starts."""

_RESULTS = ("train", *(kind for kind in _WORK if kind != "export"))
"""Kinds of jobs whose results can be registered: exports are for other programs."""

_TITLES = {
    "download": "Download",
    "fuse": "Merge adapter",
    "convert": "Convert adapter",
    "quantize": "Quantize",
    "export": "Export",
}
_SHOWN = 5
_COLUMNS = ("version", "kind", "alias", "size", "base", "validation loss", "created")
_PEFT = "Hugging Face PEFT"
_FORMATS = {_PEFT: "peft", "MLX": "mlx"}


def render_registry(bench: Workbench) -> str:
    """Return the registered versions as a table, the newest first."""
    versions = bench.registry.list_versions()
    if not versions:
        return EMPTY
    rows = [
        (
            one.reference,
            one.kind,
            ", ".join(one.aliases) or "–",
            format_size(one.size_bytes),
            one.parent or _name_base(one.base),
            f"{one.metrics['loss_after']:.4f}" if "loss_after" in one.metrics else "–",
            one.created[:16].replace("T", " "),
        )
        for one in sorted(versions, key=lambda one: one.created, reverse=True)
    ]
    return html.table(_COLUMNS, rows)


def _name_base(base: str | None) -> str:
    return EMBEDDED if base == str(MODEL) else (base or "–").rpartition("/")[2]


def render_work(bench: Workbench) -> str:
    """Return the last downloads and exports with their progress."""
    parts = [
        html.progress(job, bench.monitor.read(job.id), name=_name(job)) + _describe_result(job)
        for job in bench.list_jobs(*_WORK)[:_SHOWN]
    ]
    return "".join(parts) or html.note("Downloads and exports appear here with their progress.")


def _name(job: Job) -> str:
    named = ("repository", "adapter_path", "model_path")
    what = next((job.settings[name] for name in named if name in job.settings), EMBEDDED)
    return f"{_TITLES[job.kind]}: {what}"


def _describe_result(job: Job) -> str:
    if job.result is None:
        return ""
    kept = job.result.get("kept")
    lost = f"; the merged model keeps {kept:.1%} of what the adapter changes" if kept is not None else ""
    return html.note(f"In {job.result.get('path') or job.output}{lost}.")


def list_results(bench: Workbench) -> dict[str, str]:
    """Return what can be registered, with its folder: results of finished jobs."""
    jobs = [job for job in bench.list_jobs(*_RESULTS) if job.state == "finished"]
    return {
        f"{job.kind}: {job.settings.get('repository') or job.output.rpartition('/')[2]}": str(
            (job.result or {}).get("path") or bench.workspace.path / job.output
        )
        for job in jobs
    }


def download(bench: Workbench, repository: str) -> Job:
    """Queue a download; errors as in :meth:`Jobs.submit`."""
    name = repository.strip().removeprefix("https://huggingface.co/").strip("/")
    if not is_hub_id(name):
        message = f"{repository[:100]!r} is no model of the hub: write org/name, as in its address"
        raise ConfigError(message)
    return bench.jobs.submit("download", {"repository": name})


def register(bench: Workbench, result: str, name: str) -> str:
    """Register the result of a job, and return its version; errors as in :meth:`Registry.register`."""
    folder = list_results(bench).get(result)
    if folder is None:
        message = "choose what to register"
        raise ConfigError(message)
    # Downloads are in the cache of the hub.
    return bench.registry.register(name.strip(), folder, outside=result.startswith("download: ")).reference


class ModelsTab:
    """The tab; ``gr`` is Gradio."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench

    def build(self) -> Refresh:
        """Build the components; return what is done when the page or the tab opens."""
        gr = self._gr
        table = gr.HTML(EMPTY, elem_id="models-table")
        with gr.Row():
            with gr.Column(min_width=300):
                gr.Markdown("### Add")
                repository = gr.Textbox(
                    label="Model of the Hugging Face hub",
                    placeholder="HuggingFaceTB/SmolLM2-135M-Instruct",
                    elem_id="models-repository",
                )
                fetch = gr.Button("Download", elem_id="models-download")
                result = self._choice("Finished run or download", "models-result")
                name = gr.Textbox(label="Name", placeholder="my-model", elem_id="models-name")
                add = gr.Button("Register", variant="primary", elem_id="models-register")
            with gr.Column(min_width=300):
                gr.Markdown("### Take along")
                adapter = self._choice("Adapter", "models-adapter")
                with gr.Row():
                    take = gr.Button("Save as .zip", min_width=140, elem_id="models-zip")
                    merge = gr.Button("Merge into model", min_width=140, elem_id="models-fuse")
                file = gr.File(label="Ready to save", visible=False, elem_id="models-file")
                kind = gr.Radio(list(_FORMATS), value=_PEFT, label="Format")
                convert = gr.Button("Convert adapter")
                model = self._choice("Model", "models-model")
                bits = gr.Radio([8, 6, 5, 4, 3, 2], value=4, label="Bits per weight")
                quantize = gr.Button("Quantize model")
                target = gr.Dropdown(list(FORMATS), value="gguf", label="Format of another program")
                export = gr.Button("Export model", elem_id="models-export")
            with gr.Column(min_width=300):
                gr.Markdown("### Put to use")
                version = self._choice("Registered version", "models-version")
                promote = gr.Button("Make it the production version")
                gr.Markdown("### Downloads and exports")
                work = gr.HTML("", elem_id="models-work")
        timer, seen = gr.Timer(POLL_SECS), gr.State("")
        offered = [table, result, adapter, model, version]
        fetch.click(self.download, repository, None, **QUIET)
        added = add.click(self.register, [result, name], None, **QUIET)
        promoted = promote.click(self.promote, version, None, **QUIET)
        for event in (added, promoted):
            event.then(self.refresh, offered[1:], offered, **QUIET)
        take.click(self.pack, adapter, file, **QUIET)
        merge.click(self.merge, adapter, None, **QUIET)
        convert.click(self.convert, [adapter, kind], None, **QUIET)
        quantize.click(self.quantize, [model, bits], None, **QUIET)
        export.click(self.export, [model, target], None, **QUIET)
        timer.tick(self.show, [seen, *offered[1:]], [work, seen, *offered], **QUIET)
        return Refresh(self.refresh, offered[1:], offered)

    def _choice(self, label: str, name: str) -> Any:
        return self._gr.Dropdown([], value=None, label=label, allow_custom_value=True, elem_id=name)

    def download(self, repository: str) -> None:
        """Queue a download."""
        self._try(lambda: download(self._bench, repository), "The download cannot start")

    def register(self, result: str | None, name: str) -> None:
        """Register the result of a job."""
        self._try(lambda: register(self._bench, result or "", name), "This cannot be registered")

    def promote(self, version: str | None) -> None:
        """Let the alias of production point to a version."""
        self._try(lambda: self._bench.registry.promote(version or ""), "This version cannot be promoted")

    def pack(self, name: str | None) -> Any:
        """Pack an adapter."""
        gr = self._gr
        path = self._try(
            lambda: pack(self._bench.workspace, self._find(name).path, name or ""), "This cannot be packed"
        )
        return gr.skip() if path is None else gr.File(str(path), visible=True)

    def merge(self, name: str | None) -> None:
        """Queue the merge of an adapter into its model."""

        def submit() -> Job:
            adapter = self._find(name)
            return self._bench.jobs.submit(
                "fuse", {"adapter_path": self._setting(adapter), "model_path": adapter.model}
            )

        self._try(submit, "The adapter cannot be merged")

    def convert(self, name: str | None, kind: str) -> None:
        """Queue the conversion of an adapter."""

        def submit() -> Job:
            settings = {"adapter_path": self._setting(self._find(name)), "adapter_format": _FORMATS[kind]}
            return self._bench.jobs.submit("convert", settings)

        self._try(submit, "The adapter cannot be converted")

    def quantize(self, model: str | None, bits: int) -> None:
        """Queue the quantization of a model."""
        self._try(
            lambda: self._bench.jobs.submit("quantize", {"model_path": model or "", "bits": int(bits)}),
            "The model cannot be quantized",
        )

    def export(self, model: str | None, target: str) -> None:
        """Queue the export of a model."""
        self._try(
            lambda: self._bench.jobs.submit("export", {"model_path": model or "", "format": target}),
            "The model cannot be exported",
        )

    def _find(self, name: str | None) -> Adapter:
        found = next((one for one in self._bench.list_adapters() if one.name == name), None)
        if found is None:
            message = "choose an adapter: a finished training makes one"
            raise ConfigError(message)
        return found

    def _setting(self, adapter: Adapter) -> str:
        """Return the setting of a job that names an adapter."""
        if adapter.path.is_relative_to(self._bench.workspace.path):
            return self._bench.workspace.relative(adapter.path)
        return f"{adapter.model}:{adapter.name}"

    def _try(self, act: Callable[[], Any], title: str) -> Any:
        try:
            return act()
        except ToolkitError as problem:
            self._gr.Warning(str(problem), title=title)
            return None

    def show(self, seen: str, *chosen: Any) -> list[Any]:
        """Show the progress of downloads and exports; what they made is then offered."""
        text = render_work(self._bench)
        if text == seen:
            return [self._gr.skip() for _ in range(len(chosen) + 3)]
        return [text, text, *self.refresh(*chosen)]

    def refresh(self, *chosen: Any) -> list[Any]:
        """Offer what there is."""
        bench = self._bench
        offers: list[Sequence[str]] = [
            list(list_results(bench)),
            [adapter.name for adapter in bench.list_adapters()],
            bench.list_models(),
            [version.reference for version in bench.registry.list_versions()],
        ]
        return [
            render_registry(bench),
            *(
                self._gr.Dropdown(names, value=value if value in names else (names[0] if names else None))
                for names, value in zip(offers, chosen, strict=True)
            ),
        ]
