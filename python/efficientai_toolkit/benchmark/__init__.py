"""Benchmarks: suites of cases, each measured in a process of its own, and verdicts that know the noise.

>>> from efficientai_toolkit import benchmark
>>> run = benchmark.run("my_suite.py", benchmark.BenchmarkConfig(repeats=10))  # doctest: +SKIP
>>> print(benchmark.format_run(run))  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark.case import Case
    from efficientai_toolkit.benchmark.comparison import Comparison, compare, compare_runs
    from efficientai_toolkit.benchmark.config import BenchmarkConfig, ComparisonConfig
    from efficientai_toolkit.benchmark.report import write_report
    from efficientai_toolkit.benchmark.result import Result, Run
    from efficientai_toolkit.benchmark.runner import list_cases, run
    from efficientai_toolkit.benchmark.store import Store
    from efficientai_toolkit.benchmark.suite import Suite, list_suites
    from efficientai_toolkit.benchmark.table import format_comparison, format_run
    from efficientai_toolkit.benchmark.verdict import Verdict

__all__ = [
    "BenchmarkConfig",
    "Case",
    "Comparison",
    "ComparisonConfig",
    "Result",
    "Run",
    "Store",
    "Suite",
    "Verdict",
    "compare",
    "compare_runs",
    "format_comparison",
    "format_run",
    "list_cases",
    "list_suites",
    "run",
    "write_report",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "BenchmarkConfig": "benchmark.config:BenchmarkConfig",
            "Case": "benchmark.case:Case",
            "Comparison": "benchmark.comparison:Comparison",
            "ComparisonConfig": "benchmark.config:ComparisonConfig",
            "Result": "benchmark.result:Result",
            "Run": "benchmark.result:Run",
            "Store": "benchmark.store:Store",
            "Suite": "benchmark.suite:Suite",
            "Verdict": "benchmark.verdict:Verdict",
            "compare": "benchmark.comparison:compare",
            "compare_runs": "benchmark.comparison:compare_runs",
            "format_comparison": "benchmark.table:format_comparison",
            "format_run": "benchmark.table:format_run",
            "list_cases": "benchmark.runner:list_cases",
            "list_suites": "benchmark.suite:list_suites",
            "run": "benchmark.runner:run",
            "write_report": "benchmark.report:write_report",
        },
    )
