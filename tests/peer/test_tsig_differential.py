"""`tsig` beside CoreDNS 1.15.0: the same return codes, TSIG errors and MACs for all kinds of keys."""

from __future__ import annotations

import base64
from typing import NamedTuple

import dns.exception
import dns.message
import dns.rcode
import dns.tsig
import peers
import pytest

pytestmark = pytest.mark.peer

NAME, SECRET = "key.example.test.", base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEYS = {
    "none": None,
    "good": dns.tsig.Key(NAME, SECRET, dns.tsig.HMAC_SHA256),
    "sha512": dns.tsig.Key(NAME, SECRET, dns.tsig.HMAC_SHA512),
    "wrong": dns.tsig.Key(NAME, "eA==", dns.tsig.HMAC_SHA256),
    "unknown": dns.tsig.Key("other.test.", SECRET, dns.tsig.HMAC_SHA256),
}
COREFILE = """. {
    tsig example.test {
        secret NAME SECRET
        REQUIRED
    }
    erratic {
        drop 0
        delay 0
    }
}
"""


class Told(NamedTuple):
    """What a reply says; ``proof`` is what dnspython makes of its signature."""

    rcode: str
    flags: int
    answers: int
    error: int | None
    mac_octets: int | None
    edns: int
    proof: str


def told(server: peers.Server, query: dns.message.Message, key: dns.tsig.Key | None) -> Told:
    packet = query.to_wire()
    reply = peers.ask_udp(server.address, packet)
    assert reply is not None
    loose = dns.message.from_wire(reply, keyring=False)
    tsig = loose.tsig[0] if loose.tsig else None
    try:
        read = dns.message.from_wire(reply, keyring=key, request_mac=query.mac)
        proof = "signed" if read.had_tsig else "unsigned"
    except dns.exception.DNSException as error:
        proof = type(error).__name__
    return Told(
        dns.rcode.to_text(loose.rcode()), loose.flags, len(loose.answer),
        None if tsig is None else int(tsig.error), None if tsig is None else len(tsig.mac),
        loose.edns, proof,
    )  # fmt: skip


@pytest.mark.parametrize(
    "required", ["", "require TXT AXFR", "require all", "require_opcode QUERY", "require none"]
)
def test_requests_get_the_same_return_codes_errors_and_signatures(tmp_path, required):
    corefile = COREFILE.replace("NAME SECRET", f"{NAME} {SECRET}").replace("REQUIRED", required)
    with peers.clusterdns(corefile, tmp_path) as ours, peers.coredns(corefile, tmp_path) as theirs:
        for kind, key in KEYS.items():
            for qname in ("www.example.test", "example.test", "www.other.test"):
                for qtype in ("A", "TXT"):
                    for edns in (False, 0):
                        query = dns.message.make_query(qname, qtype, use_edns=edns)
                        if key is not None:
                            query.use_tsig(key)
                        expected, found = told(theirs, query, key), told(ours, query, key)
                        assert expected == found, (kind, qname, qtype, edns)
