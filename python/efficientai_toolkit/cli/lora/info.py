"""``lora-finetuning-mlx:info``: describe the namespace, its commands and defaults."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.info import explain
from efficientai_toolkit.evaluation import EvaluationConfig
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import AnalysisConfig
from efficientai_toolkit.lora.comparison import ComparisonConfig
from efficientai_toolkit.lora.optimization import OptimizationConfig
from efficientai_toolkit.models.generation import GenerateConfig

ABOUT = """\
Fine-tunes a language model on your data. LoRA trains two low-rank matrices beside each linear layer \
(Hu et al. 2021, arXiv:2106.09685) and freezes the model itself; `--method full` trains all weights.
Models: folders in Hugging Face format or hub ids, of type llama (Llama 2 and 3, SmolLM2), mistral, \
mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3_text, phi3, smollm3, lfm2, lfm2_moe or gpt_oss.
Data: jsonl rows {"text"}, {"prompt", "completion"} or {"messages": [...]}; the loss is computed on \
completions only.
Result: an adapter in the format of mlx-lm, or with `--adapter-format peft` of Hugging Face PEFT; \
both can be loaded everywhere. `:convert` turns one into the other, `:fuse` merges an adapter \
into its model."""

_CONFIGS: dict[str, type[Config]] = {
    "train": TrainingConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluationConfig,
    "optimize": OptimizationConfig,
    "analyze": AnalysisConfig,
    "compare": ComparisonConfig,
}
"""Configuration class of each command."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options beyond the common ones."""


def run(args: Namespace, out: Output) -> int:  # noqa: ARG001
    """Print the explanation."""
    explain("lora", ABOUT, _CONFIGS, out)
    return 0
