"""What the commands of the server share."""

from argparse import ArgumentParser, ArgumentTypeError

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.control import KEY_VARIABLE, URL

GROUPS = {
    "jobs": ("workspace", "max_jobs", "allow_downloads"),
    "access": ("api_key_file", "allowed_hosts", "cors_origins"),
    "limits": (
        "memory_budget", "max_batch", "max_body", "max_prompt_tokens", "max_output_tokens",
        "request_timeout", "drain_timeout",
    ),
    "computation": (
        "dtype", "bits", "accuracy", "prompt_cache", "prompt_cache_dir", "prompt_cache_disk", "tool_dialect",
    ),
}  # fmt: skip
"""Fields of :class:`ServeConfig` by title; the others are what is served, and where."""

ESSENTIAL = (
    "models", "model_path", "served_model_name", "adapters", "host", "port", "api_key_file", "workspace",
    "memory_budget", "max_batch",
)  # fmt: skip
"""What most servers set."""


def run_server(config: ServeConfig, out: Output) -> int:
    """Serve until SIGTERM or Ctrl-C; the address is the result, and is told at once."""
    from efficientai_toolkit.server.run import require_server, serve

    require_server()
    if not config.is_local and config.api_key_file is None:
        out.note(
            f"note: {config.host} is open to other machines, and no API key is asked for (see serve:key)"
        )

    def tell(address: str) -> None:
        out.line(f"serving at {address}; Ctrl-C ends it")
        out.result({"url": address})

    serve(config, on_start=tell)
    out.note("stopped")
    return 0


def add_control(parser: ArgumentParser) -> None:
    """Add the options that name a running server."""
    parser.add_argument(
        "--url",
        default=URL,
        help=f"address of the server (default: {URL}); {KEY_VARIABLE} holds the key of an administrator",
    )


def split_pair(text: str) -> tuple[str, str]:
    """Split ``NAME=PATH``."""
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        message = f"must tell the version, such as chat=runs/3, not {text!r}"
        raise ArgumentTypeError(message)
    return name, path
