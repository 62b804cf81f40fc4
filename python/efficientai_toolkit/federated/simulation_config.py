"""Configuration of a simulation."""

from dataclasses import dataclass
from typing import Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError

_MODES = ("synchronous", "fedbuff", "fedasync")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SimulationConfig(Config):
    """Configuration of a simulation."""

    modes: list[str] = setting(
        ["synchronous", "fedbuff"],
        "when the server takes updates in: all of a round (synchronous), as many as a buffer holds "
        "(fedbuff), or each at once (fedasync); separate several by commas",
        separator=",",
    )
    clients: int = setting(20, "number of clients")
    versions: int = setting(200, "changes of the global model after which a simulation ends")
    target_loss: float | None = setting(None, "loss at which it ends (default: only after all versions)")
    spread: float = setting(0.5, "deviation of the logarithm of the clients' times, whose median is 1 s")
    slow: int = setting(1, "number of clients that are much slower")
    slowness: float = setting(10.0, "how many times as long these take")
    bandwidth: float = setting(1e6, "bytes per second of each connection")
    latency: float = setting(0.05, "seconds of a message beside its bytes")
    loss: float = setting(0.0, "probability that an update is lost")
    deadline: float | None = setting(None, "synchronous: seconds after which a round ends (default: none)")
    buffer_size: int = setting(5, "fedbuff: updates that the server waits for")
    rate: float = setting(0.6, "fedasync: share of a fresh update in the global model")
    rule: Literal["fedavg", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median"] = (
        setting("fedavg", "how updates become one")
    )
    malicious: int = setting(0, "clients that the rule takes for hostile: its f")
    attack: Literal["none", "sign_flip", "gaussian", "ipm", "alie", "label_flip"] = setting(
        "none", "attack of the last `attackers` clients"
    )
    attackers: int = setting(0, "number of clients that attack")
    attack_scale: float = setting(1.0, "strength of the attack")
    partition: Literal["dirichlet", "quantity", "label", "iid"] = setting(
        "dirichlet", "how points are divided among clients"
    )
    alpha: float = setting(0.5, "concentration of dirichlet and quantity")
    rows: int = setting(2000, "training points of all clients")
    lr: float = setting(0.1, "learning rate of clients")
    local_epochs: int = setting(1, "passes of a client over its points in a training")
    seed: int = setting(0, "random seed")

    def check(self) -> None:
        """Check the values."""
        if unknown := [mode for mode in self.modes if mode not in _MODES]:
            message = f"`modes` must be of {', '.join(_MODES)}, not {unknown[0]!r}"
            raise ConfigError(message)
        least = {
            "clients": 1, "versions": 1, "slow": 0, "buffer_size": 1, "malicious": 0, "attackers": 0,
            "rows": 1,
            "local_epochs": 1, "spread": 0, "latency": 0,
        }  # fmt: skip
        for name, bound in least.items():
            if (value := getattr(self, name)) < bound:
                message = f"`{name}` is {value:g}, expected at least {bound}"
                raise ConfigError(message)
        for name in ("slowness", "bandwidth", "alpha", "lr"):
            if not (value := getattr(self, name)) > 0:
                message = f"`{name}` is {value:g}, expected above 0"
                raise ConfigError(message)
        for name in ("slow", "attackers"):
            if (value := getattr(self, name)) > self.clients:
                message = f"`{name}` is {value}, but there are {self.clients} `clients`"
                raise ConfigError(message)
        if not 0 <= self.loss < 1:
            message = f"`loss` is {self.loss:g}, expected at least 0 and below 1"
            raise ConfigError(message)
