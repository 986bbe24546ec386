"""Names as SkyDNS keeps them in etcd: services under keys, and the records that they make.

services.py  keys and values -> services                                        Pure
records.py   services -> records                                                Pure
gateway.py   etcd, asked over HTTP
"""
