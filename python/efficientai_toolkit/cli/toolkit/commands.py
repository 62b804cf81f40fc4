"""Summaries of the toolkit-wide commands."""

COMMANDS = {
    "info": "show the version, the device and its limits",
    "kernels": "measure the operations beside what the machine allows",
}
