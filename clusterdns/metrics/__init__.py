"""Counters and histograms, and their exposition to Prometheus."""
