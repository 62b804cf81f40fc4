"""Summaries of the commands."""

COMMANDS = {
    "register": "add a folder as the next version of a model",
    "list": "list registered models, or the versions of one",
    "show": "show a version: what it is, what it was made from, where its aliases were",
    "promote": "let an alias, such as production, point to a version",
    "compare": "set metrics, settings and sizes of versions side by side",
    "remove": "remove a version, or take an alias away",
}
