"""A page in the browser that shows results, filters them by constraints, and starts runs."""

from collections.abc import Generator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.benchmark.runner import Progress
from efficientai_toolkit.benchmark.table import describe_result
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.quantize.suite.config import SuiteConfig, available_techniques
from efficientai_toolkit.quantize.suite.plots import draw_front
from efficientai_toolkit.quantize.suite.recommendation import RecommendationConfig, recommend
from efficientai_toolkit.quantize.suite.result import RESULTS, BenchmarkResult
from efficientai_toolkit.quantize.suite.run import benchmark
from efficientai_toolkit.quantize.suite.table import list_columns, succeeded

View = tuple[Any, dict[str, Any], str]
"""A figure, a table and a text."""

_BITS = (2, 3, 4, 5, 6, 8)
_GROUP_SIZES = (32, 64, 128)


def list_results(folder: Path | str) -> list[str]:
    """Return the folders with results: ``folder`` itself, or those in it."""
    folder = Path(folder)
    if (folder / RESULTS).is_file():
        return [str(folder)]
    return sorted(str(file.parent) for file in folder.glob(f"*/{RESULTS}"))


def show_results(  # noqa: PLR0917, because Gradio passes values by position
    folder: str | None, max_memory: str, max_size: str, max_loss: str, max_kl: float | None, prefer: str
) -> View:
    """Return the front, the table and the recommendation within constraints; empty ones do not count."""
    if not folder:
        return None, {"headers": [], "data": []}, "There are no results yet: start a benchmark."
    limits = {"max_memory": max_memory, "max_size": max_size, "max_loss": max_loss, "max_kl": max_kl}
    try:
        result = BenchmarkResult.load(folder)
        config = RecommendationConfig().with_values(
            {"prefer": prefer, **{name: value for name, value in limits.items() if value not in ("", None)}}
        )
        found = recommend(result, config)
    except ToolkitError as error:
        return None, {"headers": [], "data": []}, f"**Error:** {error}"
    done = succeeded(result.rows)
    several = len({row.model for row in result.rows}) > 1
    rows = [
        row
        for row in done
        if (f"{row.model}/{row.variant}" if several else row.variant) not in found.excluded
    ]
    columns = list_columns(done)
    table = {"headers": list(columns), "data": [[cell(row) for cell in columns.values()] for row in rows]}
    figure = draw_front(rows) if any(row.mean_kl for row in rows) else None
    chosen = "none" if found.row is None else f"{found.row.model}/{found.row.variant}"
    lines = [f"**Recommended: {chosen}**: {found.reason}"]
    lines += [f"- `{name}` {reason}" for name, reason in found.excluded.items()]
    return figure, table, "\n".join(lines)


def start_run(  # noqa: PLR0917
    folder: str, model: str, techniques: list[str], bits: list[int], group_sizes: list[int], data: str
) -> Generator[str]:
    """Run a benchmark with results below ``folder``; yield the lines of its progress so far."""
    lines: list[str] = []
    queue: SimpleQueue[str | None] = SimpleQueue()

    def tell(progress: Progress) -> None:
        if progress.result is not None:
            queue.put(f"{progress.done}/{progress.total}  {describe_result(progress.result)}")

    def work() -> None:
        try:
            config = SuiteConfig(
                models=[model] if model else [],
                techniques=techniques,
                bits=bits,
                group_sizes=group_sizes,
                data=data or None,
                output=str(_next_folder(Path(folder))),
            )
            queue.put(f"finished: {benchmark(config, on_progress=tell).output}")
        except (ToolkitError, OSError) as error:
            queue.put(f"error: {error}")
        finally:
            queue.put(None)

    Thread(target=work, daemon=True).start()
    while (line := queue.get()) is not None:
        lines.append(line)
        yield "\n".join(lines)


def _next_folder(folder: Path) -> Path:
    from efficientai_toolkit.study.folder import new_run

    parent = folder.parent if (folder / RESULTS).is_file() else folder
    return new_run(parent, "quantization")


def build_demo(folder: Path | str = "runs") -> Any:
    """Build the page.

    Parameters
    ----------
    folder
        Output folder of a benchmark, or a folder of several, in which new runs are put.

    Returns
    -------
    gradio.Blocks

    Raises
    ------
    DependencyError
        If Gradio or matplotlib is not installed.
    """
    gr = require("gradio", extra="demo", purpose="the page")
    require("matplotlib", extra="demo", purpose="the page")
    names = list_results(folder)
    with gr.Blocks(title="Quantized models", analytics_enabled=False) as page:
        gr.Markdown("# Quantized models")
        with gr.Row():
            # A run adds to the choices, which Gradio would check against those of the start.
            results = gr.Dropdown(
                names, value=names[-1] if names else None, label="results", allow_custom_value=True
            )
            prefer = gr.Radio(["speed", "size", "quality"], value="speed", label="prefer")
        with gr.Row():
            limits = [
                gr.Textbox(label="largest peak memory", placeholder="4GB"),
                gr.Textbox(label="largest size", placeholder="500MB"),
                gr.Textbox(label="largest increase of the perplexity", placeholder="1%"),
                gr.Number(label="largest mean KL divergence", value=None),
            ]
        advice = gr.Markdown()
        plot = gr.Plot(label="front")
        table = gr.Dataframe(label="variants that meet the constraints", interactive=False)
        inputs, outputs = [results, *limits, prefer], [plot, table, advice]
        for control in inputs:
            control.change(show_results, inputs, outputs)
        page.load(show_results, inputs, outputs)
        with gr.Accordion("Start a benchmark", open=not names):
            model = gr.Textbox(label="model", placeholder="folder or hub id; empty: the embedded model")
            techniques = gr.CheckboxGroup(list(available_techniques()), value=["rtn"], label="techniques")
            bits = gr.CheckboxGroup(list(_BITS), value=[4], label="bits")
            groups = gr.CheckboxGroup(list(_GROUP_SIZES), value=[64], label="group sizes")
            data = gr.Textbox(label="held-out text", placeholder="jsonl file; empty: bundled instructions")
            button = gr.Button("Run", variant="primary")
            log = gr.Textbox(label="progress", lines=8)
            begun = button.click(
                start_run, [gr.State(str(folder)), model, techniques, bits, groups, data], log,
                concurrency_limit=1,
            )  # fmt: skip
            begun.then(lambda: _refresh(gr, folder), None, results)
    return page


def _refresh(gr: Any, folder: Path | str) -> Any:
    names = list_results(Path(folder).parent if (Path(folder) / RESULTS).is_file() else folder)
    return gr.Dropdown(names, value=names[-1] if names else None)


def serve_demo(
    folder: Path | str = "runs", *, host: str = "127.0.0.1", port: int = 7860, quiet: bool = False
) -> None:
    """Serve the page until Ctrl-C; parameters as in :func:`build_demo`.

    Raises
    ------
    DependencyError
        If Gradio or matplotlib is not installed.
    ToolkitError
        If the port is taken.
    """
    page = build_demo(folder)
    try:
        page.queue().launch(server_name=host, server_port=port, quiet=quiet, share=False)
    except OSError as error:
        message = f"cannot serve the page at {host}:{port}: {error}"
        raise ToolkitError(message) from error
