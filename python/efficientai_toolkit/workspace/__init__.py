"""Workspaces: a folder with data, runs and one database, which jobs and the registry share."""
