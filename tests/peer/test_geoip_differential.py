"""`geoip` beside CoreDNS 1.15.0: all labels, of addresses that its own databases know and do not."""

from __future__ import annotations

import sys
from pathlib import Path

import beside
import dns.edns
import dns.message
import peers
import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

pytestmark = pytest.mark.peer

LABELS = (
    "city/name", "country/name", "continent/name", "country/code", "subdivisions/code",
    "country/is_in_european_union", "continent/code", "latitude", "longitude", "timezone", "postalcode",
    "asn/number", "asn/org", "none",
)  # fmt: skip
COREFILE = """. {{
    metadata
    geoip {database} {{
        {option}
    }}
    template IN TXT . {{
        answer "{{{{ .Name }}}} 60 IN TXT {texts}"
    }}
    erratic
}}
"""
TEXTS = " ".join(f'\\"{each}={{{{ .Meta \\"geoip/{each}\\" }}}}\\"' for each in LABELS)
SUBNETS = (
    None, ("81.2.69.142", 32), ("81.2.69.0", 24), ("127.0.0.1", 32), ("2.125.160.216", 32), ("89.160.20.112", 28),
    ("8.8.8.8", 32), ("34.32.0.1", 32), ("2001:218::1", 64), ("2a02:cf40::", 29), ("0.0.0.0", 0), ("10.0.0.1", 8),
)  # fmt: skip


@pytest.fixture(scope="module")
def databases() -> Path:
    """The folder of CoreDNS's test databases, in Go's module cache where its build has put it."""
    found = sorted(
        Path.home().glob("go/pkg/mod/github.com/coredns/coredns@*/plugin/geoip/testdata")
    )
    if not found:
        pytest.skip("needs CoreDNS's sources: go mod download github.com/coredns/coredns@v1.15.0")
    return found[-1]


def asked(subnet: tuple[str, int] | None) -> bytes:
    query = dns.message.make_query("where.test", "TXT")
    options = [] if subnet is None else [dns.edns.ECSOption(*subnet)]
    query.use_edns(0, 0, 4096, options=options)
    return query.to_wire()


@pytest.mark.parametrize("option", ["", "edns-subnet"])
@pytest.mark.parametrize("database", ["GeoLite2-City.mmdb", "GeoLite2-ASN.mmdb"])
def test_all_labels_are_the_same(databases, database, option, tmp_path):
    text = COREFILE.format(database=databases / database, option=option, texts=TEXTS)
    packets = [asked(subnet) for subnet in SUBNETS]
    assert not beside.differences(text, packets, tmp_path, beside.UNORDERED)


def test_something_is_known_of_some(databases, tmp_path):
    text = COREFILE.format(
        database=databases / "GeoLite2-City.mmdb", option="edns-subnet", texts=TEXTS
    )
    with peers.clusterdns(text, tmp_path) as server:
        said = {
            dns.message.from_wire(peers.ask_udp(server.address, asked(subnet))).answer[0].to_text()
            for subnet in SUBNETS
        }
    assert len(said) > 1, said


def test_a_condition_may_ask_for_the_country(databases, tmp_path):
    text = """. {
        view one {
            expr metadata('geoip/country/code') == 'GB'
        }
        metadata
        geoip DATABASE {
            edns-subnet
        }
        hosts {
            192.0.2.1 where.test
        }
    }
    . {
        hosts {
            192.0.2.2 where.test
        }
    }
    """.replace("DATABASE", str(databases / "GeoLite2-City.mmdb"))
    packets = [p.replace(b"\0\x10\0\x01", b"\0\x01\0\x01", 1) for p in map(asked, SUBNETS)]
    assert not beside.differences(text, packets, tmp_path, beside.UNORDERED)


@pytest.mark.parametrize(
    "line",
    ["geoip", "geoip none.mmdb", "geoip {db} x", "geoip {db}/GeoLite2-UnknownDbType.mmdb",
     "geoip {db}/GeoLite2-City.mmdb {{\nx\n}}", "geoip {db}/README.md",
     "geoip {db}/GeoLite2-City.mmdb\ngeoip {db}/GeoLite2-ASN.mmdb"],
)  # fmt: skip
def test_both_refuse(databases, line, tmp_path):
    refused = beside.start(f". {{\n{line.format(db=databases)}\nerratic\n}}\n", tmp_path)
    assert [True, True] == [bool(each) for each in refused], refused


def test_without_the_package_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ConfigError, match=r"C:2: geoip: needs .*pip install 'clusterdns\[geoip\]'"):
        compile_text(". {\n geoip x\n}\n", "C", port=53, environ={}, warn=print)
