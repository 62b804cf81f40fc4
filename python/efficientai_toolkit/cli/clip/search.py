"""``multimodal-clip-finetuning:search``: search an index of images by text or image."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.clip.model import add_model, load_model
from efficientai_toolkit.cli.output import Output, format_pairs

ESSENTIAL = (
    "model_path", "adapter_path", "image_size", "index", "query", "image", "count", "json", "quiet",
    "progress",
)  # fmt: skip
"""What most searches set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options for model, index and query."""
    add_model(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--index", metavar="TEXT", required=True, help="folder that :embed has written")
    query = group.add_mutually_exclusive_group(required=True)
    query.add_argument("--query", metavar="TEXT", help="text to search for")
    query.add_argument("--image", metavar="TEXT", help="image to search for")
    group.add_argument("--count", metavar="N", type=int, default=10, help="images to show (default: 10)")


def run(args: Namespace, out: Output) -> int:
    """Search, and print the images."""
    from efficientai_toolkit.clip import ImageIndex

    index = ImageIndex.load(args.index)
    model = load_model(args, out)
    if args.query is not None:
        features = model.encode_text(args.query, normalize=True)
    else:
        features = model.encode_image(args.image, normalize=True)
    matches = index.search(features, args.count)[0]
    out.line(format_pairs([(f"{match.similarity:.3f}", match.image) for match in matches]))
    out.result({"matches": [asdict(match) for match in matches]})
    return 0
