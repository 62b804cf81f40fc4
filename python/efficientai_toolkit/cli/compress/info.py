"""``cpu-model-compression:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.compress.peers.config import PeersConfig
from efficientai_toolkit.compress.quality import QualityConfig
from efficientai_toolkit.compress.simulation.config import SimulationConfig
from efficientai_toolkit.distill import DistillConfig
from efficientai_toolkit.prune import PruneConfig

ABOUT = """\
Makes language models smaller and faster on CPUs, with a known loss of quality. `:compress` tries \
combinations of pruning, recovery by training and quantization within a budget of size, latency or memory, \
measures each beside the original and chooses; `:evaluate` and `:compare` measure quality, with a paired \
test, `:simulate` runs a model with limited cores and memory, `:benchmark` sets other runtimes beside it.
`:prune` removes weights: `magnitude` the smallest; `wanda` (Sun et al. 2023, arXiv:2306.11695) those that \
contribute least to the outputs on calibration text; `sparsegpt` (Frantar & Alistarh 2023, \
arXiv:2301.00774) those whose loss the remaining weights can compensate. Pattern `depth` removes whole \
blocks, those that change their inputs least (Men et al. 2024, arXiv:2403.03853), `width` channels of \
feed-forward layers.
`:distill` wins quality back: the pruned model is trained to predict what the original one predicts (Hinton \
et al. 2015, arXiv:1503.02531), on data or on what it writes itself (Agarwal et al. 2023, arXiv:2306.13649).
Models: folders in Hugging Face format or hub ids, of every type that fine-tuning loads.
Result: a model folder like the original, in which the removed weights are zero (`--format dense`) or not \
stored (`sparse-bitmask`), or with fewer blocks or channels, or quantized; of distillation a model folder or \
an adapter. On CPUs, layers of which half or more is zero are held without the zeros, which makes decoding \
faster."""


_CONFIGS: dict[str, type[Config]] = {
    "compress": CompressConfig,
    "prune": PruneConfig,
    "distill": DistillConfig,
    "evaluate": QualityConfig,
    "simulate": SimulationConfig,
    "benchmark": PeersConfig,
}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("compress", ABOUT, _CONFIGS, out)
    return 0
