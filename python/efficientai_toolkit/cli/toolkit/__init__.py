"""Toolkit-wide commands, one file each."""
