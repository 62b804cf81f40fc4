"""Options of trainings in groups; their configurations, which without options are a small demonstration."""

from argparse import Namespace
from typing import TypeVar

from efficientai_toolkit._base.assets import DEMO
from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.options import build_config

C = TypeVar("C", bound=Config)

GROUPS = {
    "data": (
        "data", "columns", "max_seq_length", "mask_prompt", "packing", "streaming", "chat_template_kwargs",
    ),
    "adapters": (
        "lora_rank", "lora_alpha", "lora_dropout", "target_modules", "num_layers", "rank_pattern",
        "use_rslora", "loraplus_lr_ratio", "lora_init", "init_adapter", "adapter_format",
    ),
    "AdaLoRA": (
        "adalora_init_rank", "adalora_tinit", "adalora_tfinal", "adalora_delta_t", "adalora_beta1",
        "adalora_beta2", "adalora_orth_reg_weight",
    ),
    "prompt tuning, prefix tuning and P-tuning": (
        "num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text", "prefix_projection",
        "encoder_hidden_size",
    ),
    "preferences (DPO and ORPO)": ("objective", "dpo_beta", "dpo_label_smoothing", "orpo_lambda"),
    "optimizer": (
        "optimizer", "lr", "weight_decay", "momentum", "nesterov", "beta1", "beta2", "eps", "max_grad_norm",
        "neftune_alpha",
    ),
    "learning-rate schedule": (
        "schedule", "warmup_ratio", "lr_min_ratio", "lr_cycles", "lr_power", "lr_decay_ratio", "lr_table",
    ),
    "evaluation and checkpoints": (
        "eval_every", "eval_batches", "early_stopping_patience", "early_stopping_threshold", "keep_best",
        "save_every", "keep_checkpoints", "resume", "overwrite",
    ),
    "quantization-aware training": ("qat_bits", "qat_group_size", "qat_embedding_bits"),
    "memory": ("dtype", "bits", "memory_budget_gb", "grad_checkpoint"),
}  # fmt: skip
"""Fields of :class:`~efficientai_toolkit.lora.TrainingConfig` by title; the others concern the whole run."""


def build_training_config(args: Namespace, config: type[C]) -> C:
    """Build a configuration; without a model and ``--config``, ``demo.yaml`` is used."""
    if args.config is None and "model_path" not in args:
        args.config = DEMO
    return build_config(args, config)
