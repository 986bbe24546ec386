"""Plugins, and how they make up a server block."""
