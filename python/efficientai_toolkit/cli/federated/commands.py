"""Summaries of the commands."""

COMMANDS = {
    "run": "fine-tune a model on the rows of many clients, in this process or in Flower's",
    "server": "start Flower's SuperLink for clients on other machines",
    "client": "start Flower's SuperNode with the rows of this machine",
    "keys": "make TLS certificates and keys of clients",
    "init": "write an app for `flwr run`",
    "simulate": "rounds of many small clients on a simulated clock: slow, lost, hostile",
    "audit": "check the security of a configuration and let attackers try it",
    "validate": "check environment, data and settings before a run",
    "info": "explain federated learning, its commands and defaults",
}
