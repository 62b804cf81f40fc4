"""Groups of the options of pruning, in the order of ``--help-all``."""

GROUPS = {
    "calibration": ("calibration", "calibration_sequences", "sequence_length", "seed"),
    "allocation": ("allocation", "allocation_range", "owl_threshold"),
    "SparseGPT": ("damping", "act_order"),
    "depth and width": ("contiguous", "width"),
}
"""Fields of :class:`~efficientai_toolkit.prune.PruneConfig` by title; others concern the whole run."""

ESSENTIAL = (
    "model_path", "output", "method", "sparsity", "pattern", "allocation", "repair", "format",
    "calibration", "resume",
)  # fmt: skip
"""What most runs set."""
