"""What this machine has and what the engine makes of it."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareReport:
    """The device in use, the machine around it, and the limits that were set."""

    backend: str
    """``metal``, ``cuda`` or ``cpu``."""
    chip: str
    """Name of the processor."""
    cores: int
    """Logical cores this process may use."""
    isa: list[str]
    """Instruction sets the CPU kernels can choose from, best last."""
    memory_bytes: int
    """Memory of the machine."""
    mlx_version: str
    memory_limit_bytes: int
    """MLX waits above it on a GPU; on a CPU it is where memory has run out."""
    cache_limit_bytes: int
    """Freed memory MLX keeps for reuse."""
    wired_limit_bytes: int
    """Memory kept resident for the GPU; 0 where there is none."""
    note: str | None = None
    """Why a GPU is not used, where there could be one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessGroup:
    """The processes that ``mlx.launch`` or ``mpirun`` started together."""

    rank: int
    """This process among them, from 0; the first one speaks and writes for all."""
    size: int


def process_group() -> ProcessGroup:
    """Join the processes that were started together; one that was started alone is its own group.

    Training divides each batch among them, so every process must train.
    """
    from efficientai_toolkit._engine.core import core

    rank, size = core.process_group()
    return ProcessGroup(rank=rank, size=size)


def hardware() -> HardwareReport:
    """Describe the device that work runs on.

    Returns
    -------
    HardwareReport

    Raises
    ------
    DependencyError
        MLX is missing or of the wrong version.
    """
    from efficientai_toolkit._engine.core import core

    return HardwareReport(**json.loads(core.hardware()))
