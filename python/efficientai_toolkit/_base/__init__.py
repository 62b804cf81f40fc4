"""Shared building blocks: configurations, files, tables, optional dependencies and bundled data."""
