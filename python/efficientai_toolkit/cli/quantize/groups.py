"""Groups of the options of a quantization, in the order of ``--help-all``."""

GROUPS = {
    "calibration": (
        "calibration",
        "calibration_sequences",
        "sequence_length",
        "calibration_rows",
        "importance",
        "save_importance",
        "seed",
    ),
    "GPTQ": ("damping", "act_order", "true_sequential"),
    "AWQ": ("awq_rounding",),
    "int8 activations": ("smooth_alpha",),
    "mixed precision": ("rounding", "target_bpw", "target_bytes", "sensitivity"),
    "learned": (
        "learned_start", "learned_lr", "learned_epochs", "learned_batch_size", "learned_temperature",
        "learned_top_k", "learned_grad_checkpoint",
    ),
}  # fmt: skip
"""Fields of :class:`~efficientai_toolkit.quantize.QuantizeConfig` by title; others concern the whole run."""

ESSENTIAL = (
    "model_path", "output", "technique", "bits", "group_size", "target_bpw", "layers",
    "calibration", "preset", "resume",
)  # fmt: skip
"""What most runs set."""
