"""Whole zones: read from files, fetched from primary servers, answered from, transferred.

zoneanswer.py  what a zone says to a question                                   Pure
proofs.py      signatures and denials in a signed zone                          Pure
zone.py        RRsets of a zone, find                                           Pure
livezone.py    a zone whose names change one at a time                          Pure
targets.py     targets of DNSEndpoints: text -> RDATA                           Pure
endpoints.py   DNSEndpoints -> live zones                                       Pure
zonefile.py    a master file on disk, read within bounds
updating.py    what an UPDATE does to a zone                                    Pure
stored.py      records of a zone that changes, in a file or shared memory
incoming.py    a transfer, as a primary server sends it                         Pure
primaries.py   primary servers, asked for whole zones over TCP
transfers.py   whole zones for transfer, and notices of changes      Pure
answering.py   base of plugins that answer from whole zones
"""
