"""What `policy` decides about questions and records.

rules.py       rules in order, and which one decides                            Pure
visible.py     the names that records tell of                                   Pure
"""
