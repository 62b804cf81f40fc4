"""The compiled engine and its link to MLX."""
