"""Configuration of a federated run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.study.folder import RUNS, new_run

_OWN = frozenset(
    {
        "model_path", "data", "output", "method", "epochs", "iters", "lr", "batch_size", "max_seq_length",
        "lora_rank", "lora_alpha", "init_adapter", "seed", "resume", "overwrite", "adapter_format",
        "eval_every", "eval_batches", "save_every", "keep_best", "schedule", "warmup_ratio",
        "early_stopping_patience", "streaming", "bits", "qat_bits",
    }
)  # fmt: skip
"""Settings of training that this configuration or the run decides."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FederatedConfig(Config):
    """Configuration of a federated run."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    data: str | None = setting(
        None,
        "a .jsonl file, or a folder with train.jsonl and optionally valid.jsonl and test.jsonl, whose "
        "training rows are divided among the clients (default: the bundled instructions)",
    )
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    clients: int = setting(8, "number of clients")
    rounds: int = setting(4, "number of rounds")
    clients_per_round: int | None = setting(None, "clients that train in a round (default: all)")
    min_clients: int = setting(1, "updates below which a round changes nothing")
    rule: Literal[
        "fedavg",
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "bulyan",
        "geometric_median",
        "centered_clipping",
    ] = setting(
        "fedavg",
        "how updates become one: their mean (fedavg), or one that a minority of hostile clients cannot spoil",
    )
    malicious: int = setting(
        0, "clients that may be hostile: f of trimmed_mean, krum, multi_krum, bulyan and pre_aggregation nnm"
    )
    pre_aggregation: Literal["none", "nnm", "bucketing"] = setting(
        "none",
        "what the rule sees instead of the updates: means of nearest neighbours (nnm) or of random groups "
        "(bucketing), for clients whose data differ",
    )
    rule_options: dict[str, Any] | None = setting(
        None, "further option of the rule, such as tau=1 of centered_clipping; repeat it for more"
    )
    weighting: Literal["examples", "uniform"] = setting(
        "examples", "weights of clients in fedavg and geometric_median: their numbers of rows, or equal ones"
    )
    server_optimizer: Literal["none", "avgm", "adagrad", "adam", "yogi"] = setting(
        "none",
        "optimizer of the server, with the update of a round as its gradient; adam and "
        "yogi need a server_lr of about 0.01",
    )
    server_lr: float = setting(1.0, "learning rate of the server")
    server_momentum: float = setting(0.9, "momentum of avgm")
    server_beta1: float = setting(0.9, "decay of the first moment of adam and yogi")
    server_beta2: float = setting(0.99, "decay of the second moment of adam and yogi")
    server_tau: float = setting(1e-3, "added to the root of the second moment of adagrad, adam and yogi")
    partition: Literal["dirichlet", "quantity", "label", "iid"] = setting(
        "dirichlet",
        "how rows are divided among clients: unequal mixtures of topics (dirichlet), unequal numbers of rows "
        "(quantity), a few topics each (label), or at random (iid)",
    )
    alpha: float = setting(
        0.5, "concentration of dirichlet and quantity; the smaller, the more the clients differ"
    )
    labels_per_client: int = setting(2, "label: topics of each client")
    label_column: str | None = setting(
        None, "column of the data with the topic of a row (default: topics are found by clustering words)"
    )
    min_rows: int = setting(8, "smallest number of rows of a client")
    selection: Literal["random", "poisson", "power_of_choice", "utility"] = setting(
        "random",
        "which clients train in a round: random ones, each with the same probability (poisson), those with "
        "the highest loss of a random subset (power_of_choice), or those with the highest loss and speed "
        "(utility)",
    )
    over_selection: float = setting(
        0.0, "share of further clients that are asked; a round ends when enough have replied"
    )
    deadline: float | None = setting(None, "seconds after which a round ends without the missing replies")
    local_epochs: float = setting(1.0, "passes of a client over its rows in a round")
    local_steps: int | None = setting(None, "optimizer steps of a client in a round; overrides local_epochs")
    lr: float = setting(5e-3, "learning rate of clients")
    batch_size: int = setting(4, "batch size of clients")
    max_seq_length: int = setting(512, "maximum sequence length; longer rows are truncated")
    lora_rank: int = setting(8, "rank of the adapters")
    lora_alpha: float = setting(16.0, "scaling of the adapters: alpha / rank")
    training: dict[str, Any] | None = setting(
        None,
        "further setting of the clients' training, as of lora-finetuning-mlx:train, such as optimizer=sgd; "
        "repeat it for more",
    )
    dropout: float = setting(
        0.0,
        "share of the clients that vanish in each round, to see what a run bears",
        flag="--client-dropout",
    )
    attack: Literal["none", "sign_flip", "gaussian", "ipm", "alie", "nan"] = setting(
        "none",
        "attack of the last `attackers` clients, to see what a rule bears: updates with the wrong sign "
        "(sign_flip), noise (gaussian), inner-product manipulation (ipm), a little is enough (alie), or "
        "numbers that are none (nan)",
    )
    attackers: int = setting(0, "number of clients that attack")
    attack_scale: float = setting(
        1.0, "strength of the attack: factor of sign_flip and ipm, deviation of the others"
    )
    dp_epsilon: float | None = setting(
        None,
        "differential privacy of clients: bound of the whole run, which ends before the round that would "
        "exceed it; needs weighting=uniform and selection=poisson (default: no bound)",
    )
    dp_noise_multiplier: float | None = setting(
        None,
        "standard deviation of the noise on the sum of a round, divided by dp_clip (default: the least with "
        "which all rounds stay within dp_epsilon)",
    )
    dp_delta: float = setting(1e-5, "probability with which the bound may fail")
    dp_clip: float = setting(1.0, "bound of the norm of a client's update over all arrays")
    early_stopping_patience: int | None = setting(
        None, "stop after this many rounds without an improvement of the validation loss (default: never)"
    )
    early_stopping_threshold: float = setting(
        0.0, "minimum decrease of the validation loss that counts as an improvement"
    )
    compare: bool = setting(
        True, "also train on all rows in one place, and on each client's rows alone, for comparison"
    )
    processes: bool = setting(
        False, "run Flower's SuperLink and a SuperNode per client as processes on this machine"
    )
    port: int = setting(9080, "first port of the processes on the loopback interface")
    keys: str | None = setting(
        None, "folder of federated-learning:keys, with which the processes encrypt their traffic"
    )
    timeout: float = setting(3600.0, "seconds that a round waits for replies")
    seed: int = setting(0, "random seed")
    resume: bool = setting(False, "resume from the last finished round in the output folder")
    overwrite: bool = setting(False, "replace the run in the output folder")

    def check(self) -> None:
        """Check the values; the engine checks those of training."""
        self._check_ranges()
        self._check_together()
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            self._check_training()

    def _check_ranges(self) -> None:
        least = {
            "clients": 1, "rounds": 1, "clients_per_round": 1, "min_clients": 1, "malicious": 0,
            "labels_per_client": 1, "min_rows": 1, "over_selection": 0, "attackers": 0, "local_steps": 1,
            "early_stopping_patience": 1,
        }  # fmt: skip
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                message = f"`{name}` is {value}, expected at least {bound}"
                raise ConfigError(message)
        for name in ("alpha", "local_epochs", "deadline", "timeout", "server_lr", "server_tau", "dp_clip"):
            if (value := getattr(self, name)) is not None and not value > 0:
                message = f"`{name}` is {value:g}, expected above 0"
                raise ConfigError(message)
        for name in ("dropout", "server_momentum", "server_beta1", "server_beta2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                message = f"`{name}` is {value:g}, expected at least 0 and below 1"
                raise ConfigError(message)

    def _check_together(self) -> None:
        for name in ("clients_per_round", "min_clients", "attackers"):
            if (value := getattr(self, name)) is not None and value > self.clients:
                message = f"`{name}` is {value}, but there are {self.clients} `clients`"
                raise ConfigError(message)
        if self.port not in (ports := range(1024, 65535 - self.clients)):
            message = f"`port` is {self.port}, expected {ports.start} to {ports.stop - 1}"
            raise ConfigError(message)
        if self.processes and (self.dropout or self.attackers):
            name = "dropout" if self.dropout else "attackers"
            message = f"`{name}` is for clients of this process, not for `processes`"
            raise ConfigError(message)
        if taken := sorted(_OWN & set(self.training or {})):
            message = f"`training` must not hold `{taken[0]}`, which the run decides by a setting of its own"
            raise ConfigError(message)

    def _check_training(self) -> None:
        from efficientai_toolkit._engine.core import core

        core.lora.check(self.training_json())

    def training_json(self, **values: Any) -> str:
        """Return the settings of a client's training as JSON for the engine."""
        from efficientai_toolkit._engine.core import core

        defaults: Mapping[str, Any] = json.loads(core.lora.defaults())
        if unknown := sorted(set(self.training or {}) - set(defaults)):
            message = (
                f"`training` holds the unknown setting `{unknown[0]}`; see "
                "`lora-finetuning-mlx:train --help-all`"
            )
            raise ConfigError(message)
        settings = {
            "model_path": self.model_path,
            "epochs": self.local_epochs,
            "iters": self.local_steps,
            "lr": self.lr,
            "batch_size": self.batch_size,
            "max_seq_length": self.max_seq_length,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            # A round is short: what grows or falls within it would begin anew in each.
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "eval_every": 0,
            "eval_batches": 1,
            "save_every": 0,
            "keep_best": False,
            "overwrite": True,
        }
        return json.dumps({**defaults, **(self.training or {}), **settings, **values})

    def with_defaults_filled(self) -> "FederatedConfig":
        """Return a copy with model, data and output folder filled in.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``resume`` is set without ``output``.
        DatasetError
            If ``data`` does not exist.
        """
        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the run to resume: give --output too"
            raise ConfigError(message)
        data = Path(self.data).expanduser() if self.data else INSTRUCTIONS
        if not data.exists():
            message = f"there is no folder or file {data}"
            raise DatasetError(message)
        output = new_run(Path(RUNS), "federated") if self.output is None else Path(self.output).expanduser()
        model = self.model_path or str(MODEL)
        return replace(self, model_path=str(hub.resolve(model)), data=str(data), output=str(output))
