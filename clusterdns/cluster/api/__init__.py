"""The Kubernetes API: where it is, and what is read from it."""
