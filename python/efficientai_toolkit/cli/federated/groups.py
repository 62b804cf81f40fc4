"""Groups of the options of federated runs, in the order of ``--help-all``."""

GROUPS = {
    "aggregation": (
        "rule", "malicious", "pre_aggregation", "rule_options", "weighting", "server_optimizer", "server_lr",
        "server_momentum", "server_beta1", "server_beta2", "server_tau",
    ),
    "data of the clients": ("partition", "alpha", "labels_per_client", "label_column", "min_rows"),
    "privacy": ("dp_epsilon", "dp_noise_multiplier", "dp_delta", "dp_clip"),
    "selection": ("clients_per_round", "min_clients", "selection", "over_selection", "deadline"),
    "training of the clients": (
        "local_epochs", "local_steps", "lr", "batch_size", "max_seq_length", "lora_rank", "lora_alpha",
        "training",
    ),
    "faults and attacks": ("dropout", "attack", "attackers", "attack_scale"),
    "end of the run": ("early_stopping_patience", "early_stopping_threshold", "timeout"),
    "processes": ("processes", "port", "keys"),
}  # fmt: skip
"""Fields of the configuration by title; others concern the whole run."""

ESSENTIAL = (
    "model_path", "data", "output", "clients", "rounds", "rule", "alpha", "lr", "processes", "resume",
)  # fmt: skip
"""What most runs set."""

SIMULATE_GROUPS = {
    "network": ("spread", "slow", "slowness", "bandwidth", "latency", "loss", "deadline"),
    "aggregation": ("rule", "malicious", "attack", "attackers", "attack_scale", "buffer_size", "rate"),
    "data of the clients": ("partition", "alpha", "rows", "lr", "local_epochs"),
}
"""Fields of :class:`~efficientai_toolkit.federated.SimulationConfig` by title."""

SIMULATE_ESSENTIAL = (
    "modes", "clients", "versions", "target_loss", "slow", "rule", "malicious", "attack", "attackers",
    "alpha",
)  # fmt: skip
"""What most simulations set."""
