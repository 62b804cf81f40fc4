"""Data as people keep it."""
