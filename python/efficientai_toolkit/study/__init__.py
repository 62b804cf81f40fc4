"""Studies of many runs, whatever it is that runs."""
