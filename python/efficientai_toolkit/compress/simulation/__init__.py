"""A model under limits of cores, memory and threads."""
