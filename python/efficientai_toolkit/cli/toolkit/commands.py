"""Summaries of the toolkit-wide commands."""

COMMANDS = {
    "info": "show the version, the device and its limits",
    "kernels": "benchmark the CPU kernels against the peak of the machine",
}
