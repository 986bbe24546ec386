"""The processes: supervisor, workers, watchers."""
