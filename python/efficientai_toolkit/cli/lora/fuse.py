"""``lora-finetuning-mlx:fuse``: merge an adapter into its model."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.cli.output import Output, format_pairs


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options for model, adapter and output."""
    group = parser.add_argument_group("merging")
    group.add_argument(
        "--model-path",
        metavar="TEXT",
        help="folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)",
    )
    group.add_argument(
        "--adapter-path",
        metavar="TEXT",
        required=True,
        help="folder or hub id of LoRA adapters, in mlx-lm's or PEFT's format",
    )
    group.add_argument("--output", metavar="TEXT", required=True, help="folder of the merged model")
    group.add_argument(
        "--dequantize",
        action="store_true",
        help="save quantized layers unquantized (default: quantize them again)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the model in the output folder")


def run(args: Namespace, out: Output) -> int:
    """Merge the adapter and print the rounding error."""
    result = fuse(
        args.model_path,
        args.adapter_path,
        args.output,
        dequantize=args.dequantize,
        overwrite=args.overwrite,
        show_progress=not out.quiet,
    )
    format_name = f"{result.dtype}, quantized" if result.quantized else result.dtype
    out.line(
        format_pairs(
            [
                ("merged", f"{result.layers:,} layers, {format_name}"),
                ("change of the logits by the adapter", f"{result.effect:.3g}"),
                ("rounding error", f"{result.error:.3g}"),
                ("share of the change kept", f"{result.kept:.1%}"),
                ("model saved in", str(result.output)),
            ]
        )
    )
    out.result(asdict(result))
    return 0
