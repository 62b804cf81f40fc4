"""The model that a command uses."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.cli.output import Output

if TYPE_CHECKING:
    from efficientai_toolkit.clip import ClipModel


def add_model(parser: ArgumentParser) -> Any:
    """Add the options for model and adapter; return their group."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model-path",
        metavar="TEXT",
        required=True,
        help="CLIP or SigLIP: folder of Hugging Face's or open_clip's format, or hub id org/name[@revision]",
    )
    group.add_argument("--adapter-path", metavar="TEXT", help="folder or hub id of an adapter to apply")
    group.add_argument("--image-size", metavar="N", type=int, help="side of images in pixels")
    return group


def load_model(args: Namespace, out: Output) -> "ClipModel":
    """Load the model that the options name."""
    from efficientai_toolkit.clip import load

    model, _ = load(
        args.model_path, args.adapter_path, image_size=args.image_size, show_progress=not out.quiet
    )
    return model
