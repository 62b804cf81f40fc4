"""Language models: loading them and generating text."""
