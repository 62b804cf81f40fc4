"""Summaries of the commands."""

COMMANDS = {
    "list": "list the runs in a folder with their models, data and results",
    "show": "show a run: its settings, its result and its curves",
    "compare": "compare runs: settings that differ, results and curves",
    "export": "write runs with their settings, results and curves as CSV, JSON or JSON lines",
}
