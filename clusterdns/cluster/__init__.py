"""The cluster as DNS sees it: objects cut down to DNS facts, joined, and turned into records."""
