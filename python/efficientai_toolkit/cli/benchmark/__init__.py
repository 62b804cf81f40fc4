"""Commands of the benchmark runner, one file each."""
