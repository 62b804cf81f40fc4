"""What most fine-tuning runs set."""

ESSENTIAL = (
    "model_path", "data", "output", "method", "bits", "lora_rank", "epochs", "lr", "batch_size", "resume",
)  # fmt: skip
"""What most runs set."""
