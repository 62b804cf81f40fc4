"""numpy, and whichever BLAS it comes with."""

from __future__ import annotations

from _job import Job, Result, main, operands, seconds_per_call, speed_of


def linear(job: Job) -> Result:
    """Measure one product of matrices; numpy has no bfloat16."""
    x, weight = (a.astype(job["dtype"]) for a in operands(job))
    return speed_of(job, seconds_per_call(lambda: x @ weight.T))


main({"linear": linear}, ("numpy",))
