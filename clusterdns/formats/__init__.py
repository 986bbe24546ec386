"""Text files that plugins read: master files, hosts files, weights."""
