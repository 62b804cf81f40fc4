"""``lora-finetuning-mlx:convert``: convert adapters between the formats of mlx-lm and PEFT."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.adapters import convert_adapter
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options for adapter, output and format."""
    group = parser.add_argument_group("conversion")
    group.add_argument(
        "--adapter-path", metavar="TEXT", required=True, help="folder or hub id of LoRA adapters"
    )
    group.add_argument("--output", metavar="TEXT", required=True, help="folder of the result")
    group.add_argument(
        "--adapter-format",
        choices=("mlx", "peft"),
        help="format to write (default: the one that the adapter is not in)",
    )
    group.add_argument(
        "--model-path",
        metavar="TEXT",
        help="folder or hub id of its model: checks every matrix, and is needed for adapters on experts",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the adapter in the output folder")


def run(args: Namespace, out: Output) -> int:
    """Convert the adapter and print the formats."""
    result = convert_adapter(
        args.adapter_path,
        args.output,
        adapter_format=args.adapter_format,
        model_path=args.model_path,
        overwrite=args.overwrite,
        show_progress=not out.quiet,
    )
    out.line(
        f"{result.layers:,} layers from {result.source} to {result.adapter_format}, saved in {result.output}"
    )
    out.result(asdict(result))
    return 0
