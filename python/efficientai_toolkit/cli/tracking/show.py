"""``tracking:show``: show a run."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output, format_pairs, get_width
from efficientai_toolkit.cli.tracking.options import add_folder, add_plot
from efficientai_toolkit.trackers.values import printable


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a run."""
    parser.add_argument(
        "run", metavar="RUN", help="folder of the run, its name in the folder of runs, or its id"
    )
    add_folder(parser)
    add_plot(parser)


def run(args: Namespace, out: Output) -> int:
    """Print settings, result and curves."""
    from efficientai_toolkit.trackers import draw_runs, find_run
    from efficientai_toolkit.trackers.export import describe_run
    from efficientai_toolkit.trackers.history import read_history
    from efficientai_toolkit.trackers.plots import choose_metrics, draw_text
    from efficientai_toolkit.trackers.settings import format_value, list_changed

    found = find_run(args.run, args.runs)
    history = read_history(found)
    if args.plot is not None:
        draw_runs(args.plot, {found.folder.name: found}, args.metric)
    pairs = [("run", str(found.folder)), ("id", found.id), ("kind", found.kind), ("status", found.status)]
    pairs += [
        (name, str(value))
        for name in ("error", "started", "resumed", "ended")
        if (value := getattr(found, name)) is not None
    ]
    out.line(_format(pairs))
    changed = [(f"  {name}", format_value(value)) for name, value in list_changed(found).items()]
    result = [(f"  {name}", f"{value:.6g}") for name, value in found.result.items()]
    made = [(f"  {name}", str(value)) for name, value in found.environment.items()]
    for title, lines in (("settings that differ", changed), ("result", result), ("made with", made)):
        if lines:
            out.line(f"\n{title}\n{_format(lines)}")
    for name in choose_metrics([history.curves], args.metric) if history.curves or args.metric else ():
        out.line(f"\n{printable(name)}")
        out.line("\n".join(draw_text(history.curves[name], width=get_width())))
    if args.plot is not None:
        out.line(f"\nwrote {args.plot}")
    out.result(describe_run(found))
    return 0


def _format(pairs: list[tuple[str, str]]) -> str:
    return format_pairs([(printable(name), printable(value)) for name, value in pairs])
