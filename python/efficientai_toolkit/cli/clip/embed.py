"""``multimodal-clip-finetuning:embed``: save the features of images as an index."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.clip.model import add_model, load_model
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.exceptions import DatasetError

ESSENTIAL = (
    "model_path", "adapter_path", "image_size", "data", "output", "overwrite", "batch_size", "json", "quiet",
    "progress",
)  # fmt: skip
"""What most indices set."""

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options for model, images and output."""
    add_model(parser)
    group = parser.add_argument_group("index")
    group.add_argument("--data", metavar="TEXT", required=True, help="folder of images, with its subfolders")
    group.add_argument(
        "--output", metavar="TEXT", required=True, help="folder of the index: features.npy and index.json"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the index in the output folder")
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="images at once (default: 32)")


def run(args: Namespace, out: Output) -> int:
    """Compute and save the features."""
    from efficientai_toolkit.clip import ImageIndex

    folder = Path(args.data).expanduser()
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not images:
        message = f"{folder}: there is no image (png, jpg, jpeg or webp)"
        raise DatasetError(message)
    index = ImageIndex.build(load_model(args, out), images, batch_size=args.batch_size)
    index.save(args.output, overwrite=args.overwrite)
    out.line(format_pairs([("images", f"{len(index):,}"), ("index saved in", args.output)]))
    out.result({"images": len(index), "dim": index.features.shape[1], "output": args.output})
    return 0
