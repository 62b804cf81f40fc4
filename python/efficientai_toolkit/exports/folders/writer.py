"""Writers of folders in Hugging Face format."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit._base.files import replace_folder, write_json
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.folders.plan import check_family
from efficientai_toolkit.exports.folders.shards import Shards, StoredTensors
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.writer import Verified, Writer, Written

if TYPE_CHECKING:
    from numpy.typing import NDArray

_QUANTIZATION = ("quantization", "quantization_config")
"""Keys of configurations that describe quantized weights."""


class FolderWriter(Writer):
    """Writes configuration, tokenizer, chat templates and weights."""

    def check(self) -> None:
        """Refuse adapters alone, and calibration."""
        config = self.job.config
        if not config.merge_adapter:
            message = (
                f"`merge_adapter` is off, but {config.format} is a whole model: adapters in PEFT format are "
                "written by adapters:convert"
            )
            raise ConfigError(message)
        if config.calibration is not None:
            message = (
                f"`calibration` has no effect on {config.format}: leave it out, or quantize the model with "
                "it (quantized-model-benchmarks:quantize --no-range-search) and export the result, whose "
                "codes stay as they are"
            )
            raise ConfigError(message)

    def write(self) -> Written:
        """Write the folder, tensor by tensor."""
        from efficientai_toolkit._engine.core import core

        job = self.job
        model, _ = job.loaded
        check_family(model)
        parameters = Parameters(model, self._progress("export"))
        dtype = self.prepare(parameters)

        def fill(folder: Path) -> None:
            core.models.copy_description(str(job.source), str(folder))
            shards = Shards(folder, dtype)
            self.add_tensors(parameters, shards)
            shards.finish()
            write_json(folder / "config.json", self._configuration(dtype, tied=parameters.tied))

        replace_folder(job.output, fill)
        return self.describe_written(parameters)

    def verify(self) -> Verified:
        """Decode every tensor of the folder and compare it with the model."""
        model, _ = self.job.loaded
        parameters = Parameters(model, self._progress("verify"))
        stored = StoredTensors(self.job.output)
        largest = 0.0
        for name in layer_names(parameters):
            expected = take(parameters, name)
            found = self.read_tensor(stored, name)
            largest = max(largest, _distance(found, expected))
        if stored.names:
            message = f"{self.job.output}: {min(stored.names)} is not a tensor of the model"
            raise ConfigError(message)
        return Verified(largest_difference=largest, compared="weights")

    @abstractmethod
    def prepare(self, parameters: Parameters) -> str:
        """Return the data type of floats, or refuse what the format cannot hold."""

    @abstractmethod
    def add_tensors(self, parameters: Parameters, shards: Shards) -> None:
        """Write all tensors."""

    @abstractmethod
    def describe_written(self, parameters: Parameters) -> Written:
        """Return what was written."""

    def read_tensor(self, stored: StoredTensors, name: str) -> "NDArray[np.float32]":
        """Return the parameter called ``name`` as the folder has it."""
        return stored.read(name)

    def quantization_config(self) -> dict[str, Any] | None:
        """Return what ``config.json`` tells about quantized weights."""
        return None

    def _configuration(self, dtype: str, *, tied: bool) -> dict[str, Any]:
        model, _ = self.job.loaded
        config = {key: value for key, value in model.config.items() if key not in _QUANTIZATION}
        # transformers 5 writes "dtype", older versions "torch_dtype".
        config["dtype" if "dtype" in config else "torch_dtype"] = dtype
        # Checkpoints may have a head of their own where the configuration says nothing, or the opposite.
        config["tie_word_embeddings"] = tied
        quantization = self.quantization_config()
        return config if quantization is None else config | {"quantization_config": quantization}

    def _progress(self, stage: str) -> Callable[[int, int], None]:
        """Return what reports about ten times how far it is."""
        last = -1

        def report(done: int, total: int) -> None:
            nonlocal last
            tenth = math.floor(10 * done / max(total, 1))
            if tenth > last:
                last = tenth
                event = {"event": "progress", "stage": stage, "done": done, "total": total}
                self.job.observe(json.dumps(event))

        return report


class SafetensorsWriter(FolderWriter):
    """Writes numbers, dequantized where they are not yet."""

    def prepare(self, parameters: Parameters) -> str:
        """Return the data type of all tensors."""
        del parameters
        names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
        return names.get(str(self.job.config.type), self.job.loaded[0].dtype)

    def add_tensors(self, parameters: Parameters, shards: Shards) -> None:
        """Write all parameters."""
        for name in layer_names(parameters):
            shards.add(name, take(parameters, name))

    def describe_written(self, parameters: Parameters) -> Written:
        """Return what was written."""
        notes: list[str] = []
        if parameters.formats:
            notes.append(f"{len(parameters.formats)} quantized layers were dequantized")
        return Written(notes=notes, types={self.prepare(parameters): len(layer_names(parameters))})


def layer_names(parameters: Parameters) -> list[str]:
    """Return names of parameters, without the parts of quantized weights."""
    parts = {f"{path}.{part}" for path in parameters.formats for part in ("scales", "biases")}
    return [name for name in parameters.shapes if name not in parts]


def take(parameters: Parameters, name: str) -> "NDArray[np.float32]":
    """Return a parameter in float32."""
    path = name.removesuffix(".weight")
    return parameters.take_matrix(path) if path in parameters.formats else parameters.take(name)


def _distance(found: "NDArray[np.float32]", expected: "NDArray[np.float32]") -> float:
    """Return the largest difference relative to the largest number."""
    largest = float(np.abs(expected).max(initial=0))
    difference = float(np.abs(found - expected).max(initial=0))
    return difference / largest if largest else difference
