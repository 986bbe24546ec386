"""``host:port``: what is read is what was printed, and nothing else is a port."""

from __future__ import annotations

import pytest

from clusterdns.host import addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:53", "192.0.2.1", "53"),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:853", "2001:db8::1", "853"),
        (":9153", "", "9153"),
        ("localhost:", "localhost", ""),
        ("[::1]:", "::1", ""),
    ],
)
def test_split(text, host, port):
    assert (host, port) == addresses.split(text)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 53), ("2001:db8::1", 853), ("", 80)])
def test_what_is_printed_is_read(host, port):
    assert (host, str(port)) == addresses.split(addresses.host_and_port(host, port))


def test_text_behind_a_bracket_is_no_port():
    with pytest.raises(ValueError, match="no valid port"):
        addresses.split("[::1]53")


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+5", "٣", "9" * 5000])
def test_no_port(text):
    with pytest.raises(ValueError, match="no valid port"):
        addresses.read_port(text)


def test_port_0_where_it_is_asked_for():
    assert 0 == addresses.read_port("0", least=0)
