"""Commands of ``cpu-model-compression``."""
