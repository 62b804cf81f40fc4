"""``cpu-model-compression:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.distill import DistillConfig
from efficientai_toolkit.prune import PruneConfig

ABOUT = """\
Makes language models smaller and faster on CPUs, with a known loss of quality. Pruning removes weights: \
`magnitude` the smallest; `wanda` (Sun et al. 2023, arXiv:2306.11695) those that contribute least to the \
outputs on calibration text; `sparsegpt` (Frantar & Alistarh 2023, arXiv:2301.00774) those whose loss the \
remaining weights can compensate. Pattern `depth` removes whole blocks, those that change their inputs least \
(Men et al. 2024, arXiv:2403.03853), `width` channels of feed-forward layers. Distillation wins \
quality back: the pruned model is trained to predict what the original one predicts (Hinton et al. 2015, \
arXiv:1503.02531), on data or on what it writes itself (Agarwal et al. 2023, arXiv:2306.13649).
Models: folders in Hugging Face format or hub ids, of every type that fine-tuning loads.
Result: a model folder like the original, in which the removed weights are zero, or with fewer blocks or \
channels; of distillation a model folder or an adapter."""


_CONFIGS: dict[str, type[Config]] = {"prune": PruneConfig, "distill": DistillConfig}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("compress", ABOUT, _CONFIGS, out)
    return 0
