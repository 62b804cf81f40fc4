"""``quantized-model-benchmarks:demo``: a page that shows results, filters them and starts runs."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the folder of the results and where the page is served."""
    parser.add_argument(
        "results", metavar="RESULTS", nargs="?", default="runs",
        help="output folder of `:run`, or a folder of several (default: runs)",
    )  # fmt: skip
    parser.add_argument(
        "--host", metavar="TEXT", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", metavar="N", type=int, default=7860, help="port (default: 7860)")


def run(args: Namespace, out: Output) -> int:
    """Serve the page until Ctrl-C."""
    from efficientai_toolkit.quantize.suite.demo import serve_demo

    serve_demo(args.results, host=args.host, port=args.port, quiet=out.quiet)
    return 0
