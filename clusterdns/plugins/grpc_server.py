"""grpc_server - bounds of server blocks whose keys begin with `grpc://`.

Syntax:

    grpc_server {
        max_connections COUNT
        max_streams COUNT
    }

Keys such as `grpc://example.org` or `grpc://.:8053` are served over gRPC, on port 443 by default,
with the certificate of `tls`, or without TLS. Clients call `Query` of the service
`coredns.dns.DnsService`, which takes and returns a `DnsPacket`, see CoreDNS's `pb/dns.proto`.
`timeouts` applies, except `maxtcpqueries`.

A listener has `max_connections` in each worker, by default 200; 0 is the limit of TCP, 4096. If
there are more, the one that has been quiet for longest is closed, of a client with more than 64 if
there is one. A connection may have `max_streams` calls under way, 256 by default and for 0, 1024 at
most; 64 of them may wait for the chain. Of server blocks of one port, the first setting counts.

Examples:

    grpc://.:8053 {
        grpc_server {
            max_connections 1000
        }
        forward . /etc/resolv.conf
    }

Differences from CoreDNS: in CoreDNS a connection above the limit waits until another one ends. A
message without a reply, as with `acl` and `drop`, fails with UNKNOWN; CoreDNS returns the query. A
zone transfer of several messages fails, too; CoreDNS returns its last message. Compressed messages
are refused, and there is no reflection.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive


class GrpcServer(Passive):
    """Sets the bounds of its server block."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        for line in directive.block:
            match line.name:
                case "max_connections":
                    if block.calls.most_connections is not None:
                        raise line.error("max_connections is set already")
                    block.calls = block.calls._replace(most_connections=arguments.number(line))
                case "max_streams":
                    if block.calls.most_streams is not None:
                        raise line.error("max_streams is set already")
                    block.calls = block.calls._replace(most_streams=arguments.number(line))
                case _:
                    raise line.unknown("max_connections", "max_streams")
