"""DNS messages: names, records, queries, replies. No sockets, no clock.

name.py       names in wire form                                                Pure
rr.py         resource records, RDATA we author                                 Pure
rdata.py      where RDATA holds names                                           Pure
canonical.py  canonical form and order in DNSSEC                                Pure
message.py    queries, questions, OPT, headers                                  Pure
reading.py    the gate, the reply walker                                        Pure
printing.py   messages in dig's notation                                        Pure
response.py   Response, and how it is rendered                                  Pure
outcome.py    kinds of responses                                                Pure
siphash.py    a keyed hash                                                      Pure
cookies.py    DNS cookies                                                       Pure
tsig.py       TSIG: requests checked, replies signed                            Pure
trace.py      notes on how an explained query is answered                       Pure
facts.py      what an answer was decided from                                   Pure
"""
