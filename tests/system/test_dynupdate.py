"""dynupdate: what it does otherwise than CoreDNS, mistakes, and changes that outlive processes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import signal
import socket
import subprocess
import sys
import time

import beside
import dns.message
import dns.query
import dns.rcode
import dns.tsig
import dns.update
import dns.zone
import peers
import pytest

from clusterdns.authority.stored import InFile, StoredError
from clusterdns.authority.updating import Records
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.formats import masterfile
from clusterdns.plugins import dynupdate
from clusterdns.wire import name, rr

SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY = dns.tsig.Key("k.test.", SECRET, dns.tsig.HMAC_SHA256)
ZONE = "$TTL 60\n@ IN SOA ns h 7 3600 600 86400 60\n@ IN NS ns\nns IN A 192.0.2.1\n"
COREFILE = """. {{
    {more}
    tsig {{
        secret k.test. {secret}
        require_opcode UPDATE
    }}
    transfer d.test {{
        to *
    }}
    dynupdate d.test {{
        file d.zone
        allow k.test. {allowed}
        {options}
    }}
}}
"""


def corefile(options: str = "", more: str = "", allowed: str = "* *") -> str:
    return COREFILE.format(secret=SECRET, options=options, more=more, allowed=allowed)


def send(server: peers.Server, update: dns.update.UpdateMessage, *, udp: bool = False) -> str:
    update.use_tsig(KEY)
    host, port = server.address
    ask = dns.query.udp if udp else dns.query.tcp
    reply = ask(update, host, port=port, timeout=10)  # checks the signature
    return dns.rcode.to_text(reply.rcode())


def add(server: peers.Server, owner: str, rtype: str, data: str, ttl: int = 60, **how: bool) -> str:
    update = dns.update.UpdateMessage("d.test")
    update.add(owner, ttl, rtype, data)
    return send(server, update, **how)


def look_up(server: peers.Server, qname: str, qtype: str = "A") -> list[str]:
    reply = peers.ask_udp(server.address, beside.query(qname, qtype))
    assert reply is not None
    return sorted(
        f"{rrset.ttl} {rdata}" for rrset in dns.message.from_wire(reply).answer for rdata in rrset
    )


def serial(server: peers.Server) -> int:
    return int(look_up(server, "d.test", "SOA")[0].split()[3])


@pytest.fixture
def directory(tmp_path):
    return beside.files(tmp_path, {"d.zone": ZONE})


def test_an_rrset_has_one_ttl_and_types_without_a_name_are_taken(directory):
    with peers.clusterdns(corefile(), directory) as server:
        assert "NOERROR" == add(server, "a", "A", "192.0.2.2")
        assert "NOERROR" == add(server, "a", "A", "192.0.2.3", ttl=30)
        assert ["30 192.0.2.2", "30 192.0.2.3"] == look_up(server, "a.d.test")
        assert "NOERROR" == add(server, "a", "TYPE65280", r"\# 2 0102")
        assert [r"60 \# 2 0102"] == look_up(server, "a.d.test", "TYPE65280")
        assert 10 == serial(server)


def test_a_change_outside_the_zone_is_told_before_what_is_allowed(directory):
    with peers.clusterdns(corefile(allowed="a.d.test. A"), directory) as server:
        update = dns.update.UpdateMessage("d.test")
        update.add("a.e.test.", 60, "A", "192.0.2.1")
        assert "NOTZONE" == send(server, update)
        assert "REFUSED" == add(server, "b", "A", "192.0.2.1")


def test_an_update_of_4000_octets_comes_over_udp(directory):
    with peers.clusterdns(corefile(), directory) as server:
        update = dns.update.UpdateMessage("d.test")
        for number in range(100):
            update.add(f"n{number}", 60, "TXT", "x" * 20)
        assert len(update.to_wire()) > 3000
        assert "NOERROR" == send(server, update, udp=True)
        assert ['60 "xxxxxxxxxxxxxxxxxxxx"'] == look_up(server, "n99.d.test", "TXT")


def test_a_repeated_answer_is_forgotten_and_a_denial_too(directory):
    with peers.clusterdns(corefile(more="cache 30"), directory) as server:
        for _ in range(3):
            assert [] == look_up(server, "a.d.test")
            assert ["60 192.0.2.1"] == look_up(server, "ns.d.test")
        add(server, "a", "A", "192.0.2.2")
        add(server, "ns", "A", "192.0.2.3")
        assert ["60 192.0.2.2"] == look_up(server, "a.d.test")
        assert ["60 192.0.2.1", "60 192.0.2.3"] == look_up(server, "ns.d.test")


def test_limits_refuse_a_whole_update(directory):
    with peers.clusterdns(corefile("max_records 4"), directory) as server:
        assert "NOERROR" == add(server, "a", "A", "192.0.2.2")
        update = dns.update.UpdateMessage("d.test")
        update.delete("a")
        update.add("b", 60, "A", "192.0.2.1")
        update.add("c", 60, "A", "192.0.2.1")
        assert "REFUSED" == send(server, update)
        assert (["60 192.0.2.2"], [], 8) == (
            look_up(server, "a.d.test"), look_up(server, "b.d.test"), serial(server),
        )  # fmt: skip


def test_a_change_outlives_kill_9_and_the_seed_is_read_no_more(directory):
    with peers.clusterdns(corefile("database d.db"), directory) as server:
        assert "NOERROR" == add(server, "a", "A", "192.0.2.2")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    (directory / "d.zone").unlink()
    assert 0o600 == (directory / "d.db").stat().st_mode & 0o777
    with peers.clusterdns(corefile("database d.db"), directory) as server:
        assert (["60 192.0.2.2"], 8) == (look_up(server, "a.d.test"), serial(server))


def test_updates_in_line_are_bounded(directory):
    """Who has a key, or repeats what one who has it sent, takes no place of others' queries."""
    with (
        peers.clusterdns(corefile("database d.db"), directory) as server,
        (directory / "d.db.lock").open("w") as lock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        client.settimeout(5)
        client.connect(server.address)
        for i in range(dynupdate.MAX_WAITING + 40):
            update = dns.update.UpdateMessage("d.test", id=i)
            update.add(f"n{i}", 60, "A", "192.0.2.9")
            update.use_tsig(KEY)
            client.send(update.to_wire())
        at_once = [client.recv(512) for _ in range(40)]
        assert {dns.rcode.SERVFAIL} == {reply[3] & 15 for reply in at_once}
        assert ["60 192.0.2.1"] == look_up(server, "ns.d.test")
        fcntl.flock(lock, fcntl.LOCK_UN)
        later = [client.recv(512) for _ in range(dynupdate.MAX_WAITING)]
        assert {dns.rcode.NOERROR} == {reply[3] & 15 for reply in later}
        assert "NOERROR" == add(server, "again", "A", "192.0.2.9")


def test_a_database_that_is_damaged_while_it_is_served_is_not_overwritten(directory):
    with peers.clusterdns(corefile("database d.db"), directory) as server:
        assert "NOERROR" == add(server, "a", "A", "192.0.2.2")
        (directory / "d.db").write_bytes(b"damaged")
        deadline = time.monotonic() + 10
        while "the last good records stay in force" not in server.output:
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)
        assert "SERVFAIL" == add(server, "b", "A", "192.0.2.3")
        assert ["60 192.0.2.2"] == look_up(server, "a.d.test")
        assert b"damaged" == (directory / "d.db").read_bytes()
        time.sleep(0.3)
        assert 1 == server.output.count("the last good records stay in force")


@pytest.mark.parametrize("options", ["", "database d.db"])
def test_all_workers_have_a_change_and_none_undoes_that_of_another(directory, options):
    with peers.clusterdns(corefile(options, more="multisocket 3"), directory) as server:
        for number in range(12):  # each on a new connection, so by any worker
            assert "NOERROR" == add(server, f"n{number}", "A", "192.0.2.9")
        assert 19 == serial_of_all(server)
        for number in range(12):
            for _ in range(6):
                assert ["60 192.0.2.9"] == look_up(server, f"n{number}.d.test")


def serial_of_all(server: peers.Server) -> int:
    """Wait until twenty questions, each from a new port, get the same serial; return it."""
    deadline = time.monotonic() + 10
    while True:
        found = {serial(server) for _ in range(20)}
        if len(found) == 1:
            return found.pop()
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_transfer_has_what_was_changed(directory):
    with peers.clusterdns(corefile(), directory) as server:
        add(server, "a", "A", "192.0.2.2")
        host, port = server.address
        messages = dns.query.xfr(host, "d.test", port=port, timeout=5, lifetime=10)
        assert "a" in {str(owner) for owner in dns.zone.from_xfr(messages).nodes}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("allow k. * *", "file is required"),
        ("file d.zone", "at least one allow rule is required"),
        ("file d.zone\nallow k. a.e.test. A", "outside zone d.test."),
        ("file d.zone\nallow k. * * A", "stands alone"),
        ("file d.zone\nallow k. * DS", "invalid RR type 'DS'"),
        ("file d.zone\nallow k. * NONSENSE", "invalid RR type"),
        ("file d.zone\nallow * * *", "no name of a key"),
        ("file d.zone\nallow k. *", "wants KEY NAME TYPE"),
        ("file d.zone\nallow k. * *\nmax_records 0", "of at least 1"),
        ("file d.zone\nallow k. * *\nmax_records 2", "exceeds max_records (2)"),
        ("file d.zone\nallow k. * *\nmax_bytes 20", "exceeds max_bytes (20)"),
        ("file d.zone\nallow k. * *\ndatabase none/d.db", "is no directory"),
        ("file d.zone\nallow k. * *\ndatabase d.zone", "no database of dynupdate's"),
        ("file none\nallow k. * *", "No such file"),
        ("file d.zone\nfile d.zone\nallow k. * *", "given twice"),
        ("file zero\nallow k. * *", "serial zero"),
        ("file ds\nallow k. * *", "unsupported RR type DS"),
        ("file d.zone\nallow k. * *\nfallthrough", "fallthrough"),
    ],
)
def test_mistakes_are_told_with_their_line(directory, block, said, monkeypatch):
    beside.files(
        directory,
        {
            "zero": ZONE.replace(" 7 ", " 0 "),
            "ds": ZONE + "a IN DS 1 8 1 00112233445566778899aabbccddeeff00112233\n",
        },
    )
    monkeypatch.chdir(directory)
    text = f"d.test {{\n dynupdate {{\n{block}\n }}\n}}\n"
    with pytest.raises(ConfigError, match=r"Corefile:\d+: ") as caught:
        compile_text(text, "Corefile", port=53, environ={}, warn=print)
    assert said in str(caught.value)


def test_a_database_that_is_damaged_or_of_another_zone_is_no_seed(directory):
    record = masterfile.record("d.test. 60 IN A 192.0.2.1")
    path, apex = directory / "d.db", name.fold(name.parse("d.test."))
    stored = InFile(path, apex, 1000)
    assert stored.version() is None
    with stored.locked():
        stored.write([record])
    assert [record] == stored.read()
    with pytest.raises(StoredError, match=r"database of zone d\.test\."):
        InFile(path, name.fold(name.parse("e.test.")), 1000).read()
    octets = path.read_bytes()
    for cut in (octets[:-1], octets[:-1] + b"\0", octets[:10], b""):
        path.write_bytes(cut)
        with pytest.raises(StoredError):
            stored.read()


def test_a_copy_of_records_is_changed_without_the_original():
    apex = name.fold(name.parse("d.test."))
    one, two = (masterfile.record(f"a.d.test. 60 IN A 192.0.2.{n}") for n in (1, 2))
    records = Records(apex, [one])
    other = records.copy()
    assert other.add(two) and not other.add(two)
    other.remove(name.fold(one.owner), rr.A, one.rdata)
    assert ([one], [two], 1, 1) == (list(records), list(other), records.count, other.count)
    assert records.octets == other.octets == len(one.owner) + 10 + 4


def test_nsupdate_changes_the_zone(directory):
    with peers.clusterdns(corefile(), directory) as server:
        host, port = server.address
        said = (
            f"server {host} {port}\nzone d.test.\nkey hmac-sha256:k.test. {SECRET}\n"
            "prereq nxrrset www.d.test. A\nupdate add www.d.test. 60 A 192.0.2.10\nsend\n"
        )
        with contextlib.suppress(FileNotFoundError):
            done = subprocess.run(
                ["nsupdate"], input=said, text=True, capture_output=True, timeout=20
            )
            assert (0, "") == (done.returncode, done.stderr), done
            assert ["60 192.0.2.10"] == look_up(server, "www.d.test")
            return
    pytest.skip("apt-get install bind9-dnsutils")


def test_check_takes_the_manual_s_example(directory):
    beside.files(directory, {"Corefile": corefile("database d.db")})
    done = subprocess.run(
        [sys.executable, "-m", "clusterdns", "check", "Corefile"],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout
    assert not (directory / "d.db").exists()
