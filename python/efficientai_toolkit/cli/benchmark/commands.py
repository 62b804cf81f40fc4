"""Summaries of the commands."""

COMMANDS = {
    "run": "measure the cases of a suite",
    "list": "list suites, the cases of one, and stored runs",
    "compare": "compare two suites, cases, commands or stored runs: faster, slower, or cannot tell",
    "report": "write a report of a stored run",
}
