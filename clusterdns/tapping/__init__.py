"""The messages of `dnstap`, and the connections to their readers.

payload.py  its messages                                                        Pure
taps.py     who is told of exchanges with upstream servers                      Pure
outlets.py  connections to readers, which nobody waits for
"""
