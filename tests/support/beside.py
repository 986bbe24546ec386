"""clusterdns and a real CoreDNS with one Corefile, asked the same: every difference, or none.

``differences`` runs both and asks each query over UDP and TCP; ``start`` tells whether a Corefile is
taken at all. ``query`` makes a packet with or without EDNS, and ``queries`` all manners of asking.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import compare
import dns.flags
import dns.message
import peers
from prometheus_client.parser import text_string_to_metric_families

STRICT = compare.Rules()
UNORDERED = compare.Rules(is_ordered=False, is_additional_ordered=False)


def query(
    qname: str, qtype: str = "A", *, edns: int | None = None, do: bool = False, qclass: str = "IN",
    flags: int = dns.flags.RD,
) -> bytes:  # fmt: skip
    """Return the packet of a query; ``edns`` is the size its OPT names, None for no OPT."""
    made = dns.message.make_query(qname, qtype, qclass)
    made.flags = flags
    if edns is not None or do:
        made.use_edns(0, dns.flags.DO if do else 0, edns or 1232)
    return made.to_wire()


def queries(qname: str, *qtypes: str) -> Iterator[bytes]:
    """Yield the packets that ask for a name: each type plain, with EDNS, with DO."""
    for qtype in qtypes or ("A", "AAAA"):
        yield query(qname, qtype)
        yield query(qname, qtype, edns=1232)
        yield query(qname, qtype, do=True)


def differences(
    corefile: str,
    packets: Iterable[bytes],
    directory: Path,
    rules: compare.Rules | Callable[[bytes], compare.Rules] = STRICT,
    theirs: str = "",
    transports: tuple[str, ...] = ("udp", "tcp"),
) -> list[str]:
    """Return how the replies to ``packets`` differ, with both replies as dig prints them.

    ``theirs`` is the Corefile of CoreDNS where it needs another one. ``{PORT}`` in a Corefile is the
    port of the server. Relative paths start from ``directory``.
    """
    asks = {"udp": peers.ask_udp, "tcp": peers.ask_tcp}
    found = []
    with (
        peers.clusterdns(corefile, directory) as our_server,
        peers.coredns(theirs or corefile, directory) as their_server,
    ):
        for packet in packets:
            for transport in transports:
                ask = asks[transport]
                their_reply = ask(their_server.address, packet)
                our_reply = ask(our_server.address, packet)
                rule = rules if isinstance(rules, compare.Rules) else rules(packet)
                said = compare.difference(packet, their_reply, our_reply, rule)
                if said:
                    asked = dns.message.from_wire(packet).question[0].to_text()
                    found.append(f"{transport} {asked}: {said}")
    return found


def samples(port: int, prefix: str) -> dict[tuple[object, ...], float]:
    """Return what a server at a port of loopback exposes under names that begin with ``prefix``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix) and not sample.name.endswith("_created")
    }


def start(corefile: str, directory: Path) -> tuple[str, str]:
    """Return why clusterdns and CoreDNS refuse a Corefile, "" for who takes it.

    Both are started at a free port and stopped as soon as they answer.
    """
    return refusal("clusterdns", corefile, directory), refusal("coredns", corefile, directory)


def refusal(server: str, corefile: str, directory: Path) -> str:
    """Return why "clusterdns" or "coredns" refuses a Corefile, "" if it takes it."""
    ours = [sys.executable, "-m", "clusterdns"]
    command = ours if server == "clusterdns" else [str(peers.coredns_path())]
    with peers.running(command, corefile, directory) as started:
        try:
            peers.wait_until_answering(started)
        except RuntimeError:
            return started.output or "silence"
    return ""


def files(directory: Path, contents: Mapping[str, str]) -> Path:
    """Write files below a directory and return it."""
    for path, text in contents.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        os.utime(target)
    return directory


def run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a clusterdns subcommand such as ``["check", "Corefile"]``."""
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", *command],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
