"""Summaries of the toolkit-wide commands."""

COMMANDS = {
    "info": "show the version, the device and its limits",
    "serve": "serve models to many clients over HTTP, in the manner of OpenAI's API",
    "kernels": "benchmark the CPU kernels against the peak of the machine",
}
