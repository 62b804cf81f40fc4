"""
Measuring the kernels.
"""

__all__ = ["measure", "measure_convolution", "report"]

def measure(request: str) -> float:
    """
    Median seconds of one call of a kernel; ``request`` is the JSON of what to measure.
    """

def measure_convolution(request: str) -> float:
    """
    Median seconds of one pass of a convolution; ``request`` is the JSON of what to measure.
    """

def report() -> str:
    """
    Every kernel beside what the machine allows, as JSON.
    """
