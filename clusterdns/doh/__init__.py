"""DNS messages in HTTP (RFC 8484): requests and replies in HTTP/1.1 and HTTP/2.

carrier.py  what requests and replies say                                       Pure
http1.py    HTTP/1.1, by h11                                                    Pure
http2.py    HTTP/2, by h2                                                       Pure
fields.py   header fields that we send                                          Pure
grpc.py     DNS messages in gRPC                                                Pure
"""
