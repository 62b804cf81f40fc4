"""The two apps of a run on Flower's processes, ``ServerApp`` and ``ClientApp``.

Both read the settings of :class:`FederatedConfig` from the run's configuration; a client's rows and model are
its own business, ``data`` and ``model`` of its node's configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated import flower
from efficientai_toolkit.federated.client import create_client
from efficientai_toolkit.federated.config import FederatedConfig

try:
    flower.silence()
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
except ImportError as error:
    raise flower.missing(error) from error

if TYPE_CHECKING:
    from efficientai_toolkit.federated.adapter import AdapterTrainer


def to_run_config(config: FederatedConfig) -> dict[str, str | int | float | bool]:
    """Return the settings that differ from the defaults as Flower's scalars."""
    values: dict[str, str | int | float | bool] = {}
    for option in list_options(FederatedConfig):
        value = getattr(config, option.name)
        if value is not None and value != option.default:
            values[option.name.replace("_", "-")] = (
                value if isinstance(value, str | int | float | bool) else json.dumps(value)
            )
    return values


def from_run_config(values: Mapping[str, Any]) -> FederatedConfig:
    """Return the configuration of Flower's scalars.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is wrong.
    """
    options = {option.name: option for option in list_options(FederatedConfig)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        is_nested = name in options and options[name].keyed and isinstance(value, str)
        found[name] = json.loads(value) if is_nested else value
    return FederatedConfig().with_values(found, source="the configuration of the run")


def create_client_app() -> ClientApp:
    """Return an app that fine-tunes adapters on the rows of its node."""
    app = ClientApp()
    trainers: dict[str, AdapterTrainer] = {}

    def find(context: Context) -> Path:
        data = context.node_config.get("data")
        if not isinstance(data, str):
            message = "the node has no `data`: start it with --data, or --node-config 'data=\"/path\"'"
            raise ConfigError(message)
        return Path(data)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        from efficientai_toolkit.federated.adapter import AdapterTrainer

        config = from_run_config(context.run_config)
        model = context.node_config.get("model", config.model_path)
        config = config.with_values({"model_path": model, "resume": False}).with_defaults_filled()
        trainer = trainers.get(str(config.model_path))
        if trainer is None:
            trainer = trainers[str(config.model_path)] = AdapterTrainer(config, Path(mkdtemp()))
            # The file of a saved adapter says more than its arrays.
            trainer.create(find(context))
        return create_client(trainer, find, seed=config.seed)(message, context)

    return app


def create_server_app() -> ServerApp:
    """Return an app that runs all rounds and saves the adapter and the checkpoints in ``output``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from efficientai_toolkit.federated.serve import run_rounds

        run_rounds(grid, from_run_config(context.run_config))

    return app
