"""https - bounds of server blocks whose keys begin with `https://`.

Syntax:

    https {
        max_connections COUNT
        max_streams COUNT
    }

Keys such as `https://example.org` or `https://.:8443` are served as DNS over HTTPS (RFC 8484), on
port 443 by default: HTTP/2 or HTTP/1.1, GET and POST of `/dns-query`, with the certificate of
`tls`. Without `tls` it is HTTP/1.1 without TLS, as in CoreDNS, for a proxy that terminates TLS.
`timeouts` applies, except `maxtcpqueries`.

A listener has `max_connections` in each worker, by default 200; 0 is the limit of TCP, 4096. Each
takes 31 KiB. If there are more, the one that has been quiet for longest is closed, of a client with
more than 64 if there is one. A connection of HTTP/2 may have `max_streams` requests under way, 250
by default and for 0, 1024 at most; 64 of them may wait for the chain. Server blocks of one port
that set `max_streams` must set the same value; of different `max_connections`, the first counts.

A request for another path gets the status 404, one without a query 400. More than 8192 octets of
header fields end the connection or get 431; so do 1024 frames without a request.

Examples:

    https://. {
        tls tls.crt tls.key
        https {
            max_connections 1000
        }
        forward . /etc/resolv.conf
    }

Metrics:

    coredns_dns_https_responses_total{server,status}   replies, by HTTP status

Differences from CoreDNS: in CoreDNS a connection above the limit waits until another one ends. A
zone transfer of several messages gets the status 500; CoreDNS sends only the last message. Replies
are signed for `tsig`; CoreDNS sends an empty signature. A query of more than 6000 octets needs
POST.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Repeats
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive

MAX_COUNT = 2**32 - 1


class Https(Passive):
    """Sets the bounds of its server block."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        for line in directive.block:
            match line.name:
                case "max_connections":
                    if block.web.most_connections is not None:
                        raise line.error("max_connections is set already")
                    block.web = block.web._replace(most_connections=arguments.number(line))
                case "max_streams":
                    if block.web.most_streams is not None:
                        raise line.error("max_streams is set already")
                    most = arguments.number(line, most=MAX_COUNT)
                    block.web = block.web._replace(most_streams=most)
                case _:
                    raise line.unknown("max_connections", "max_streams")
