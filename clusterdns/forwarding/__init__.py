"""Asking upstream servers: which one, over what, who waits for it, and what is its reply."""
