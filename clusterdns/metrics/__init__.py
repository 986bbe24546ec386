"""Counters and histograms, and their exposition to Prometheus.

histogram.py   durations and sizes in buckets                                   Pure
tally.py       counts of a listener                                             Pure
ledger.py      counts of all workers, added up                                  Pure
family.py      one family: help, labels, buckets                                Pure
exposition.py  CoreDNS's families, as Prometheus reads them
"""
