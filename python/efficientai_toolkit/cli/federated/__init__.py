"""Commands of ``federated-learning``."""
