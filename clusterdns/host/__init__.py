"""The machine this runs on: logs, files, interfaces, resolver settings."""
