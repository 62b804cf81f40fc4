"""Summaries of the commands."""

COMMANDS = {
    "deploy": "let a running server serve another version of a model, without dropping a request",
    "rollback": "let a running server serve the version before the last deployment again",
    "key": "make an API key, and add its hash to a file of keys",
}
