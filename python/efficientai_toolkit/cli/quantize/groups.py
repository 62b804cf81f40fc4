"""Groups of the options of a quantization, in the order of ``--help-all``."""

GROUPS = {
    "calibration": ("calibration", "calibration_sequences", "sequence_length", "seed"),
    "GPTQ": ("damping", "act_order", "true_sequential"),
}
"""Fields of :class:`~efficientai_toolkit.quantize.QuantizeConfig` by title; others concern the whole run."""

ESSENTIAL = (
    "model_path", "output", "technique", "bits", "group_size", "embedding_bits", "layers", "calibration",
    "resume",
)  # fmt: skip
"""What most runs set."""
