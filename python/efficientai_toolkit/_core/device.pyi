"""
The machine and the device in use.
"""

__all__ = ["accelerate_mlx", "hardware", "process_group", "sgemm_calls", "start"]

def accelerate_mlx() -> bool:
    """
    Lets MLX multiply float32 matrices on the CPU with the engine's kernel; ``False`` if it has no
    function that could be replaced.
    """

def hardware() -> str:
    """
    The machine, the device in use and the limits set on MLX's allocator, as JSON.
    """

def process_group() -> tuple[int, int]:
    """
    This process's rank among those that were started together, and their number; waits for them the first time.
    """

def sgemm_calls() -> int:
    """
    How often MLX has called the engine for a product of float32 matrices.
    """

def start() -> None:
    """
    Checks the loaded MLX and the environment variables, passes log records to ``logging``, chooses the device and sets the
    allocator's limits. To be called once, before everything else.

    Raises ``DependencyError`` unless the loaded MLX is the one the engine was built for, and
    ``ConfigError`` for a variable with a value that it cannot have.
    """
