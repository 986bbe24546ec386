"""Queries to upstream servers: choice of the server, transport, waiting clients, replies.

entropy.py       IDs and ports
exchange.py      a query, and what is its reply                                 Pure
choice.py        which server is asked next                                     Pure
lookup.py        host names, asked of resolvers
settings.py      what a `forward` sets: its arguments and its block
destinations.py  the words of TO
connections.py   TCP and TLS, kept
https.py         HTTPS connections, kept
calls.py         gRPC connections, kept
datagrams.py     queries to one server, over UDP
health.py        probes of a server that failed
upstream.py      one server: what is under way, counts
flight.py        a query on its way from server to server
roster.py        its servers, while the file that names them changes
counts.py        what is counted of a server
outside.py       whom a block forwards to, and whether that loops               Pure
"""
