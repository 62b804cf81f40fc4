"""``benchmark list``: list suites, the cases of one, and stored runs."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.tables import align
from efficientai_toolkit.cli.benchmark.options import add_results, add_suite_options, build_suite
from efficientai_toolkit.cli.output import Output, format_pairs

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark import Run


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the list."""
    parser.add_argument(
        "suite", metavar="SUITE", nargs="?", help="list the cases of this suite (default: suites and runs)"
    )
    add_suite_options(parser)
    add_results(parser)


def run(args: Namespace, out: Output) -> int:
    """Print what there is."""
    from efficientai_toolkit.benchmark import Store, list_cases, list_suites

    if args.suite is not None:
        cases = list_cases(build_suite(args), args.filter)
        out.line(format_pairs([(case["case"], _explain(case)) for case in cases]))
        out.result({"suite": args.suite, "cases": cases})
        return 0
    suites = list_suites()
    runs = Store(args.results).runs() if args.results.exists() else []
    out.line("installed suites")
    out.line(format_pairs([(f"  {name}", place) for name, place in suites.items()]) or "  none")
    out.line(f"\nruns in {args.results}")
    out.line(_table(runs) if runs else "  none")
    out.result({"suites": suites, "runs": [_shorten(run) for run in runs]})
    return 0


def _explain(case: dict[str, Any]) -> str:
    texts = {"run": "timed", "measure": "measured once", "command": "a command"}
    units = f", {case['units']:,g} {case['unit']} per call" if case["units"] else ""
    return texts[case["kind"]] + units


def _table(runs: "list[Run]") -> str:
    rows = [("run", "suite", "baseline", "started", "state")]
    rows += [
        (str(run.id), run.suite, run.name or "–", run.started, "finished" if run.finished else "interrupted")
        for run in runs
    ]
    return "\n".join(align(rows, left=5))


def _shorten(run: "Run") -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if name not in {"results", "environment"}}
