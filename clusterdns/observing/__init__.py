"""Observations of all queries: counts of some minutes, the most frequent, the last ones.

sketch.py     the most frequent of many                                         Pure
ring.py       the last queries                                                  Pure
selection.py  which of them are wanted                                          Pure
sampling.py   which hits are looked at                                          Pure
window.py     counts and latencies of some minutes                              Pure
collector.py  all of it, in one worker                                          Pure
"""
