"""The compiled engine, and the MLX it is linked to."""
