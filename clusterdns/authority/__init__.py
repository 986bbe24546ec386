"""Whole zones: read from files, fetched from primary servers, answered from, transferred."""
