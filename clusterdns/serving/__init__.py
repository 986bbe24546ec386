"""The packet path: sockets, the answer table, and their twins in C.

native.py      the extension, where it was compiled
packetloop.py  a worker's event loop, whose wait answers queries
table.py       AnswerTable: what may be repeated                                Pure
classes.py     tables by class of client                                       Pure
cut.py         its replies, cut to what a client accepts                        Pure
server.py      one listener: miss, render, remember
explaining.py  one query, explained
explained.py   its explanation, as people read it
behind.py      the objects and lines behind its notes
observed.py    hits that `log` and `dnstap` are told of
udp.py         UDP: datagrams in batches, and the clients that wait
batch.py       64 of them with two system calls, where no C was compiled
framing.py     messages on a stream                                             Pure
connection.py  one client's stream, and the bounds of all
tcp.py         TCP: a listening socket, and its streams in their turns
securesocket.py  a TLS socket whose client cannot keep it busy
secure.py      streams over TLS
https.py       streams of HTTP
grpc.py        streams of gRPC
_drain.c       UDP in C: AnswerTable.reply for a batch of datagrams
_packet.c      what the C files read in a message
_addresses.c   which names of a reverse zone may exist
_relay.c       plain misses, sent on and passed back
_reply.c       a reply, read and written again
_limit.c       rate limits by client
_sample.c      which hits are looked at
_siphash.c     a keyed hash
relay.py       lanes of `_relay.c`, and what it hands over
"""
