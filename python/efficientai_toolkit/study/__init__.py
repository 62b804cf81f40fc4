"""Studies that consist of many runs, independent of what is run."""
