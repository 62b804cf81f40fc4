"""A model in this engine beside other runtimes."""
