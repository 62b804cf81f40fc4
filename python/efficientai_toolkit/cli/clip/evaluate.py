"""``multimodal-clip-finetuning:evaluate``: measure retrieval and zero-shot classification."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.clip.model import add_model, load_model
from efficientai_toolkit.cli.output import Output, format_pairs

ESSENTIAL = (
    "model_path", "adapter_path", "image_size", "data", "zero_shot", "template", "batch_size", "json",
    "quiet", "progress",
)  # fmt: skip
"""What most evaluations set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options for model, data and templates."""
    add_model(parser)
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--data", metavar="TEXT", required=True, help="image–text pairs: a table, or a folder of images"
    )
    group.add_argument(
        "--zero-shot",
        action="store_true",
        help="take the texts for labels and classify the images, instead of retrieval",
    )
    group.add_argument(
        "--template",
        metavar="TEXT",
        action="append",
        help="sentence with {} around a label; repeat the option for more (default: a photo of a {}.)",
    )
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="images at once (default: 32)")


def run(args: Namespace, out: Output) -> int:
    """Evaluate, and print the figures."""
    from efficientai_toolkit.clip import evaluate_retrieval, evaluate_zero_shot, read_pairs

    pairs = read_pairs(args.data)
    model = load_model(args, out)
    images = [pair.image for pair in pairs]
    if args.zero_shot:
        labels = sorted({pair.texts[0] for pair in pairs})
        targets = [labels.index(pair.texts[0]) for pair in pairs]
        options = {} if args.template is None else {"templates": args.template}
        found = evaluate_zero_shot(model, images, targets, labels, batch_size=args.batch_size, **options)
        worst = sorted(found.class_accuracy.items(), key=lambda item: item[1])[:3]
        out.line(
            format_pairs(
                [
                    ("images", f"{found.images:,} of {len(labels):,} labels"),
                    ("accuracy", f"{found.accuracy:.1%} (top 5: {found.top5_accuracy:.1%})"),
                    ("worst labels", ", ".join(f"{label} {share:.0%}" for label, share in worst)),
                ]
            )
        )
        out.result(asdict(found))
        return 0
    texts = [text for pair in pairs for text in pair.texts]
    owners = [number for number, pair in enumerate(pairs) for _ in pair.texts]
    image_features = model.encode_image(images, normalize=True, batch_size=args.batch_size)
    text_features = model.encode_text(texts, normalize=True, truncate=True)
    recall = evaluate_retrieval(image_features, text_features, owners)
    out.line(
        format_pairs(
            [
                ("images, texts", f"{len(images):,}, {len(texts):,}"),
                ("image to text", _row(recall.image_to_text, recall.image_to_text_median_rank)),
                ("text to image", _row(recall.text_to_image, recall.text_to_image_median_rank)),
            ]
        )
    )
    out.result(asdict(recall))
    return 0


def _row(recall: dict[int, float], rank: float) -> str:
    shares = ", ".join(f"R@{k} {share:.1%}" for k, share in recall.items())
    return f"{shares}, median rank {rank:g}"
