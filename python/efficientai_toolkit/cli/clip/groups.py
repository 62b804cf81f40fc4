"""Groups of the options of a run, in the order of ``--help-all``."""

GROUPS = {
    "data": ("data", "validation_data", "validation_ratio", "image_size"),
    "adapters": ("lora_rank", "lora_alpha", "lora_dropout", "target_modules", "adapter_format"),
    "optimizer": (
        "optimizer", "lr", "weight_decay", "beta1", "beta2", "eps", "max_grad_norm", "schedule",
        "warmup_ratio", "lr_min_ratio",
    ),
    "evaluation and checkpoints": (
        "eval_every", "eval_batches", "early_stopping_patience", "keep_best", "save_every",
        "keep_checkpoints", "resume", "overwrite",
    ),
    "memory": ("dtype", "memory_budget_gb", "grad_checkpoint"),
}  # fmt: skip
"""Fields of :class:`~efficientai_toolkit.clip.ClipConfig` by title; the others concern the whole run."""

ESSENTIAL = (
    "model_path", "data", "output", "method", "loss", "freeze", "epochs", "lr", "batch_size", "resume",
)  # fmt: skip
"""What most runs set."""
