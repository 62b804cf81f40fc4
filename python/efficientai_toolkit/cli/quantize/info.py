"""``quantized-model-benchmarks:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.quantize import QuantizeConfig
from efficientai_toolkit.quantize.subset import SubsetConfig
from efficientai_toolkit.quantize.suite.config import SuiteConfig
from efficientai_toolkit.quantize.suite.recommendation import RecommendationConfig

ABOUT = """\
Quantizes the weights of a language model to 2–8 bits and measures what that costs. `rtn` rounds every \
weight to the nearest value; `gptq` (Frantar et al. 2022, arXiv:2210.17323) lets later weights compensate \
the errors of earlier ones, as measured on calibration text; `awq` (Lin et al. 2023, arXiv:2306.00978) \
scales up the channels with large activations before rounding; `learned` then trains scales and biases to \
predict what the original model does; `mixed` measures how much the predictions suffer when each layer is \
quantized, and chooses bits layer by layer for a size.
Models: folders in Hugging Face format or hub ids, of every type that fine-tuning loads.
Result: a model folder in MLX's format, which mlx-lm and every command of this toolkit read.
`:select` chooses a few rows of a data set that stand for all, by the hidden states of a model: for \
training; `:quantize --calibration-rows auto` chooses its text so.
`:run` measures quality, size, memory and speed of several settings beside the original, `:recommend` \
chooses among the results, `:compare` sets two of them side by side, `:demo` shows them in the browser."""


_CONFIGS: dict[str, type[Config]] = {
    "quantize": QuantizeConfig,
    "select": SubsetConfig,
    "run": SuiteConfig,
    "recommend": RecommendationConfig,
}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("quantize", ABOUT, _CONFIGS, out)
    return 0
