"""`geoip`: a database that changes while it is served neither ends nor holds the server."""

from __future__ import annotations

import contextlib

import dns.message
import peers
import pytest
import tinymmdb

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.plugins.geoip import Geoip
from clusterdns.wire.message import Query

pytest.importorskip("maxminddb")

COREFILE = """. {
    metadata
    geoip here.mmdb
    template IN TXT {
        answer "{{ .Name }} 60 IN TXT at-{{ .Meta `geoip/country/code` }}"
    }
}
"""


def label(server: peers.Server) -> str:
    """Return the label of a client at the loopback address."""
    reply = peers.ask_udp(server.address, dns.message.make_query("x.test", "TXT").to_wire(), 5)
    assert reply is not None
    return str(dns.message.from_wire(reply).answer[0][0])


def test_a_database_that_is_written_to_is_served_as_it_was(tmp_path):
    """`cp` makes the file empty first: with a mapped file each query ended a worker (SIGBUS)."""
    path = tinymmdb.write(tmp_path / "here.mmdb", "GeoLite2-City", {"country": {"iso_code": "AQ"}})
    octets = path.read_bytes()
    with peers.clusterdns(COREFILE, tmp_path) as server:
        for left in (octets[: len(octets) // 2], b"", octets[::-1]):
            with path.open("r+b") as file:
                file.truncate(0)
                file.write(left)
            assert '"at-AQ"' == label(server)
        assert "ended" not in server.output


def test_no_part_of_a_database_is_taken_for_one_or_ends_anything(tmp_path):
    """A file that is copied when the configuration is read."""
    path = tinymmdb.write(tmp_path / "here.mmdb", "GeoLite2-City", {"country": {"iso_code": "AQ"}})
    octets = path.read_bytes()
    text = f". {{\n metadata\n geoip {path}\n}}"
    for left in range(0, len(octets), 3):
        for half in (octets[:left], octets[left:], octets[:left] + bytes(len(octets) - left)):
            path.write_bytes(half)
            with contextlib.suppress(ConfigError):
                plugins = compile_text(text, "x", port=53, environ={}, warn=print).plugins
                (geoip,) = (each for each in plugins if isinstance(each, Geoip))
                query = Query(0, 0, None, None, 30)
                query.client = ("192.0.2.1", 53)
                geoip.labels(query)
