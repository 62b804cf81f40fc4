"""Hardware and process groups."""

import json
from dataclasses import dataclass

from efficientai_toolkit._base.display import Displayed


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class HardwareReport(Displayed):
    """Device, machine and memory limits."""

    backend: str
    """``metal``, ``cuda`` or ``cpu``."""
    chip: str
    """Processor name."""
    cores: int
    """Number of logical cores available to this process."""
    isa: list[str]
    """Instruction sets supported by the CPU kernels, in ascending order."""
    memory_bytes: int
    """Physical memory."""
    mlx_version: str
    memory_limit_bytes: int
    """Limit of MLX's allocator. On a GPU MLX waits above it; on a CPU allocations fail."""
    cache_limit_bytes: int
    """Maximum size of MLX's cache of freed buffers."""
    wired_limit_bytes: int
    """Wired memory for the GPU; 0 without one."""
    note: str | None = None
    """Reason why an available GPU is not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessGroup:
    """A group of processes started by ``mlx.launch`` or ``mpirun``."""

    rank: int
    """Rank of this process, from 0; rank 0 writes all output."""
    size: int


def process_group() -> ProcessGroup:
    """Join the process group; a process started alone forms a group of size 1.

    Training distributes each batch over the group, so all processes must take part.
    """
    from efficientai_toolkit._engine.core import core

    rank, size = core.device.process_group()
    return ProcessGroup(rank=rank, size=size)


def hardware() -> HardwareReport:
    """Return a report of the device in use.

    Returns
    -------
    HardwareReport

    Raises
    ------
    DependencyError
        If MLX is missing or has the wrong version.
    """
    from efficientai_toolkit._engine.core import core

    return HardwareReport(**json.loads(core.device.hardware()))
