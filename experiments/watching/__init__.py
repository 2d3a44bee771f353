"""Watching a run: logs, image grids, and what is left of one that failed."""
