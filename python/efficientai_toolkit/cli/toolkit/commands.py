"""What the toolkit-wide commands do, in a line each."""

COMMANDS = {
    "info": "show the version, the device and its limits",
    "kernels": "measure the operations beside what the machine allows",
}
