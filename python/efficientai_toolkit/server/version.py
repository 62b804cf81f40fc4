"""A loaded model, and what it takes to load one."""

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError, ToolkitError
from efficientai_toolkit.server.backend import create_backend
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.dialects.base import Dialect
from efficientai_toolkit.server.dialects.detect import detect_dialect
from efficientai_toolkit.server.engine import EngineThread

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


@dataclass(kw_only=True, slots=True, eq=False)
class Version:
    """A loaded model, with what is asked of it while it computes: the model itself answers between steps."""

    path: Path
    model: "Model"
    tokenizer: "Tokenizer"
    engine: EngineThread
    dialect: Dialect
    size: int
    """Estimated bytes of its weights."""
    dtype: str
    num_parameters: int
    context_length: int | None
    """Largest number of tokens of a text, as the model's configuration tells."""
    vocabulary: int
    """Number of tokens that the model has logits for."""
    adapters: set[str] = field(default_factory=set[str])
    """Adapters that were loaded."""
    users: Counter[str] = field(default_factory=Counter[str])
    """Numbers of requests that use an adapter."""
    has_fewer_users: asyncio.Event = field(default_factory=asyncio.Event)
    adapter_locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    leases: int = 0
    is_retired: bool = False

    def leave_adapter(self, name: str) -> None:
        """Count a request less that uses an adapter."""
        self.users[name] -= 1
        self.has_fewer_users.set()

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load an adapter unless it is loaded."""

        def load(_: str | None) -> None:
            self.model.load_adapter(str(path), name)
            self.adapters.add(name)

        async with self.adapter_locks[name]:
            if name not in self.adapters:
                await self.engine.call(load)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter after the requests that use it."""

        def unload(_: str | None) -> None:
            self.model.unload_adapter(name)
            self.adapters.discard(name)

        async with self.adapter_locks[name]:
            while self.users[name]:
                self.has_fewer_users.clear()
                await self.has_fewer_users.wait()
            if name in self.adapters:
                await self.engine.call(unload)

    async def drop_adapter(self, name: str) -> None:
        """Forget an adapter that no request uses; who asks for it from now on loads it again."""
        self.adapters.discard(name)
        await self.engine.call(lambda _: self.model.unload_adapter(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What was read from files."""

    model: "Model"
    tokenizer: "Tokenizer"
    draft: "Model | None" = None
    """Small model that proposes tokens."""


def read_model(path: Path, config: ServeConfig, draft: Path | None = None) -> Loaded:
    """Load the model in a folder, and the small one that proposes tokens for it; takes long.

    Raises
    ------
    ConfigError
        If they have different tokenizers.
    """
    from efficientai_toolkit.models.loading import load

    model, tokenizer = load(path, dtype=config.dtype, bits=config.bits, show_progress=False)
    if draft is None:
        return Loaded(model=model, tokenizer=tokenizer)
    small, other = load(draft, dtype=config.dtype, show_progress=False)
    if not _is_same_vocabulary(tokenizer, other):
        message = f"the draft model {draft} has another tokenizer than {path}: its tokens mean something else"
        raise ConfigError(message)
    return Loaded(model=model, tokenizer=tokenizer, draft=small)


def _is_same_vocabulary(one: "Tokenizer", other: "Tokenizer") -> bool:
    def decode(tokenizer: "Tokenizer", number: int) -> str:
        return tokenizer.decode([number], skip_special_tokens=False)

    return one.vocab_size == other.vocab_size and all(
        decode(one, number) == decode(other, number) for number in range(one.vocab_size)
    )


def start_version(path: Path, loaded: Loaded, config: ServeConfig, size: int) -> Version:
    """Start the engine of a model; in the event loop.

    Raises
    ------
    ConfigError
        If the small model cannot propose tokens for the other one.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    values: dict[str, Any] = model.config
    context = values.get("max_position_embeddings")
    return Version(
        path=path,
        model=model,
        tokenizer=tokenizer,
        engine=EngineThread(
            model,
            create_backend(model, tokenizer, config, loaded.draft),
            max_batch=config.max_batch,
            max_queue=config.max_queue,
        ),
        dialect=detect_dialect(path, model.model_type, config.tool_dialect),
        size=size,
        dtype=model.dtype,
        num_parameters=model.num_parameters,
        context_length=context if isinstance(context, int) else None,
        vocabulary=int(values.get("vocab_size", tokenizer.vocab_size)),
    )


def estimate_size(path: Path, config: ServeConfig, draft: Path | None = None) -> int:
    """Estimate the bytes that the weights of a folder or GGUF file take, with those of the draft model."""
    if draft is not None:
        return estimate_size(path, config) + estimate_size(draft, config.with_values({"bits": None}))
    if path.is_file():
        return _estimate_unpacked(path, config)
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    # A checkpoint of two bytes per number that is computed in float32.
    doubles = config.bits is None and config.dtype in {None, "float32"} and _is_half(path)
    return 2 * stored if doubles else stored


def _estimate_unpacked(path: Path, config: ServeConfig) -> int:
    """As :func:`estimate_size`, for a GGUF file, some matrices of which are not packed in memory."""
    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.device import hardware

    try:
        found = json.loads(core.models.describe_gguf(path))
    except ToolkitError:
        return path.stat().st_size
    if config.bits is not None:
        width = config.bits / 8
    elif config.dtype == "float32" or (config.dtype is None and hardware().backend == "cpu"):
        width = 4
    else:
        width = 2
    return int(found["packed_bytes"] + found["numbers"] * width)


def _is_half(path: Path) -> bool:
    """Whether dense weights of two bytes are computed as float32, on a CPU."""
    from efficientai_toolkit._base.config import read_pairs
    from efficientai_toolkit.device import hardware

    try:
        values: dict[str, Any] = read_pairs(path / "config.json")
    except ToolkitError:
        return False
    kind = values.get("dtype", values.get("torch_dtype"))
    return "quantization" not in values and kind in {"float16", "bfloat16"} and hardware().backend == "cpu"


def check_folder(path: str) -> Path:
    """Return an existing folder or GGUF file: requests never download.

    Raises
    ------
    ModelLoadingError
        If there is none.
    """
    folder = Path(path).expanduser()
    try:
        exists = folder.is_dir() or (folder.suffix.lower() == ".gguf" and folder.is_file())
    except (OSError, ValueError):
        exists = False
    if not exists:
        message = f"the server has no folder or GGUF file {path[:200]!r}"
        raise ModelLoadingError(message)
    return folder.resolve()
