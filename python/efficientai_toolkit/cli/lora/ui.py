"""``lora-finetuning-mlx:ui``: a page in the browser for the whole way from data to a model."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.serve import GROUPS
from efficientai_toolkit.ui.config import PageConfig
from efficientai_toolkit.ui.requirements import require_page

ESSENTIAL = (
    "host", "port", "workspace", "models", "model_path", "adapters", "api_key_file", "allow_downloads",
    "max_upload", "memory_budget",
)  # fmt: skip
"""What most users set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`PageConfig`."""
    add_config(parser, PageConfig, title="page", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Serve until Ctrl-C."""
    config = build_config(args, PageConfig)
    require_page()
    from efficientai_toolkit.ui.app import serve_page

    if not config.is_local and config.api_key_file is None:
        out.note(
            f"note: {config.host} is open to other machines, but without API keys only this one may use the "
            "page (see serve:key)"
        )

    def tell(address: str) -> None:
        out.line(f"the page is at {address}; Ctrl-C ends it")
        out.result({"url": address})

    serve_page(config, on_start=tell)
    out.note("stopped")
    return 0
