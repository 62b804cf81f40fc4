"""``multimodal-clip-finetuning:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.clip import ClipConfig

ABOUT = """\
Fine-tunes models that compare images with texts: CLIP (Radford et al. 2021, arXiv:2103.00020) with \
InfoNCE, and SigLIP (Zhai et al. 2023, arXiv:2303.15343) with its sigmoid loss, in the formats of Hugging \
Face and open_clip.
Data: a table with the columns image and text (.jsonl, .json, .csv, .tsv, .parquet), or a folder of images \
with metadata.jsonl, with a .txt beside each image, or with a folder per class.
Result: an adapter in PEFT's format, or with --method full a model folder."""


_CONFIGS: dict[str, type[Config]] = {"train": ClipConfig}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("clip", ABOUT, _CONFIGS, out)
    return 0
