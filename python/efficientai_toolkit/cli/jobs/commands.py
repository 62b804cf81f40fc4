"""Summaries of the commands."""

COMMANDS = {
    "list": "list the jobs of a workspace, or the kinds there are",
    "submit": "queue a job, which the server of the workspace or jobs:run runs",
    "run": "run the queued jobs of a workspace without a server",
    "follow": "show the progress of a job until it has ended",
    "cancel": "cancel a job; a running one keeps its last checkpoint",
    "resume": "queue a cancelled or failed job again, which continues from its last checkpoint",
    "delete": "forget a job that does not run",
}
