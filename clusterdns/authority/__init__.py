"""Whole zones: read from files, fetched from primary servers, answered from, transferred.

zoneanswer.py  what a zone says to a question                                   Pure
proofs.py      signatures and denials in a signed zone                          Pure
zone.py        RRsets of a zone, find                                           Pure
livezone.py    a zone whose names change one at a time                          Pure
hostzone.py    a zone of hosts, whose addresses depend on the client             Pure
targets.py     targets of DNSEndpoints: text -> RDATA                           Pure
endpoints.py   DNSEndpoints -> live zones                                       Pure
hosts.py       Ingresses, Gateways and routes -> hosts of live zones            Pure
sides.py       where hosts are reached, inside and outside                      Pure
leftout.py     why something published is not served                            Pure
zonefile.py    a master file on disk, read within bounds
updating.py    what an UPDATE does to a zone                                    Pure
stored.py      records of a zone that changes, in a file or shared memory
incoming.py    a transfer, as a primary server sends it                         Pure
primaries.py   primary servers, asked for whole zones over TCP
transfers.py   whole zones for transfer, and notices of changes      Pure
answering.py   base of plugins that answer from whole zones
publishing.py  base of plugins whose zones are made of objects
"""
