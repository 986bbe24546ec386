"""The servers that are measured side by side, each as fast as its sane configuration makes it.

``world`` generates the cluster and starts the upstream server, ``running`` one of ``NAMES`` in it.
Every server has one thread for queries, no query log, and runs pinned to the server core. clusterdns and
CoreDNS have the same Corefile and read the cluster from an API server each; the others have a file of
the same records. An external name is forwarded to the same upstream server by all who can.

- Knot serves a zone file. It forwards nothing.
- Unbound has the records as ``local-data``. An ``auth-zone`` that its cache stands before took 5.4 µs
  instead of 6.5 for what was asked before, but 21 instead of 5.5 for names never asked before.
- dnsmasq has the addresses in a hosts file. It is not asked what it is not made for: SRV records it
  keeps in a list that it goes through for every name that it does not know, 0.8 ms; a full cache makes
  room by going through all names, hosts too, 27 ms for each new name; and over TCP it forks a
  process for each connection, whose CPU time is gone with it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import churn
import dns.message
import inputs
import measure
import peers
import pytest
import records

import clusterdns

ECHO, CLUSTERDNS, PURE, COREDNS = "echo", "clusterdns", "clusterdns (Python)", "coredns"
# Of the program that the variable names: its wheel was built with CLUSTERDNS_COMPILE=1.
COMPILED, COMPILED_PURE = "clusterdns (compiled)", "clusterdns (compiled, no C)"
_PROGRAM = "CLUSTERDNS_COMPILED"
KNOT, UNBOUND, DNSMASQ = "knot", "unbound", "dnsmasq"
LOAD_TIMEOUT_S = 120.0
_VERSION = r"[Vv]ersion (\d\S*)"
UPSTREAM_PROBE = "probe.example0.com"

COREFILE = """.:{{PORT}} {{
    errors
    prometheus 127.0.0.1:{metrics}
    cache {cache}
    loadbalance
    {plugins}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        endpoint {url}
        pods insecure
        fallthrough ip6.arpa
        ttl 30
    }}
    forward . 127.0.0.1:{upstream}
}}
"""
# What the default Corefile of a distribution has besides, as in tests/peer/corefiles.
DISTRIBUTIONS = {
    "k3s": "hosts {nodehosts} {{\n ttl 60\n reload 15s\n fallthrough\n }}",
    "aks": """template ANY ANY internal.cloudapp.net {{
        match "^(?:[^.]+\\.){{4,}}internal\\.cloudapp\\.net\\.$"
        rcode NXDOMAIN
        fallthrough
    }}
    template ANY ANY reddog.microsoft.com {{
        rcode NXDOMAIN
    }}""",
    "openshift": "bufsize 1232\n log . {{\n class error\n }}",
    "log": "log",  # of no distribution, but what many add
}
CACHES = {"openshift": "900 {\n denial 9984 30\n }"}


class World(NamedTuple):
    """What all servers serve, and who is asked about the rest."""

    directory: Path
    cluster: inputs.Cluster
    upstream: int  # port
    distribution: str = ""  # of DISTRIBUTIONS


class Subject(NamedTuple):
    """A server that is measured."""

    name: str
    port: int
    pid: int
    api: churn.Api | None = None  # where it has the cluster from


class Kind(NamedTuple):
    """How a server is had and started; ``meets`` is what of a scenario's needs it can meet."""

    program: str
    package: str  # of Debian
    meets: frozenset[str]
    command: Callable[[Path, World, int], list[str]]


def can_serve(name: str, scenario: inputs.Scenario) -> bool:
    """Tell whether a server can be asked what a scenario asks; all can be asked of the echo server."""
    return name == ECHO or scenario.needs <= _meets(name)


def _meets(name: str) -> frozenset[str]:
    if name in _KINDS:
        return _KINDS[name].meets
    return frozenset({"zone", "srv", "external", "unique", "tcp", "api", "form", "pods"})


def missing(name: str) -> str:
    """Return why a server cannot be run here and what installs it, or nothing."""
    if name == COREDNS:
        try:
            peers.coredns_path()
        except pytest.skip.Exception as skipped:
            return f"without {name}: {skipped}"
    if name in (COMPILED, COMPILED_PURE) and not os.environ.get(_PROGRAM):
        return f"without {name}: {_PROGRAM}=VENV/bin/clusterdns (built with CLUSTERDNS_COMPILE=1)"
    if name in _KINDS and _program(name) is None:
        return f"without {name}: apt-get install {_KINDS[name].package}"
    return ""


def _program(name: str) -> str | None:
    """Return a path; the directories of servers are in few users' PATH."""
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
    return shutil.which(_KINDS[name].program, path=path)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of servers that are here, and of what they run on."""
    found = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": _first(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()),
        "dnsperf": _output([measure.DNSPERF, "-h"], r"Version (\S+)"),
        "cc": _output([measure.compiler() or "cc", "--version"], r"(.*)"),
        CLUSTERDNS: clusterdns.__version__,
    }
    for name in names:
        if name == COREDNS and not missing(name):
            found[name] = _output([str(peers.coredns_path()), "-version"], r"CoreDNS-(\S+)")
        elif name in _KINDS and not missing(name):
            found[name] = _output(
                [str(_program(name)), "-v" if name == DNSMASQ else "-V"], _VERSION
            )
    return found


def _output(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return _first(pattern, done.stdout + done.stderr)


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else "unknown"


@contextlib.contextmanager
def world(directory: Path, services: int, endpoints: int = inputs.ENDPOINTS) -> Iterator[World]:
    """Generate a cluster and start the upstream server, on the core of the load."""
    cluster = inputs.generate(directory, services, endpoints)
    found = list(records.records(inputs.objects(directory)))
    (directory / "zone").write_text(records.master_file(found))
    (directory / "hosts").write_text(records.hosts_file(found))
    (directory / "local-data").write_text(records.local_data(found))
    path, port = measure.compile_echo(directory), peers.free_port()
    with _process([str(path), str(port), "answer"], directory, measure.LOAD_CORE, port) as server:
        _wait_for(server, UPSTREAM_PROBE)
        yield World(directory, cluster, port)


@contextlib.contextmanager
def running(name: str, world: World) -> Iterator[Subject]:
    """Run a server on its core; it knows the whole cluster when this yields."""
    with contextlib.ExitStack() as stack:
        api = None
        if name in (CLUSTERDNS, PURE, COMPILED, COMPILED_PURE, COREDNS):
            api = stack.enter_context(churn.api_process(world.directory))
            text = _corefile(world, api.url)
            if name in (COMPILED, COMPILED_PURE):
                made = peers.running([os.environ[_PROGRAM]], text, world.directory)
            else:
                run = peers.coredns if name == COREDNS else peers.clusterdns
                made = run(text, world.directory)
            with measure.pinned(measure.SERVER_CORE), _pure(name in (PURE, COMPILED_PURE)):
                server = stack.enter_context(made)
        else:
            server = stack.enter_context(_started(name, world))
        if name != ECHO:
            _wait_for(server, world.cluster.probe)
        yield Subject(name, server.port, server.process.pid, api)


def _corefile(world: World, url: str) -> str:
    nodehosts = world.directory / "NodeHosts"
    nodehosts.write_text("".join(f"10.42.0.{i} node-{i}\n" for i in range(1, 100)))
    return COREFILE.format(
        metrics=peers.free_port(),
        url=url,
        upstream=world.upstream,
        cache=CACHES.get(world.distribution, "30"),
        plugins=DISTRIBUTIONS.get(world.distribution, "").format(nodehosts=nodehosts),
    )


def _started(name: str, world: World) -> contextlib.AbstractContextManager[peers.Server]:
    port = peers.free_port()
    if name == ECHO:
        command = [str(world.directory / "echo"), str(port)]
    else:
        command = [str(_program(name)), *_KINDS[name].command(world.directory, world, port)]
    return _process(command, world.directory, measure.SERVER_CORE, port)


@contextlib.contextmanager
def _process(command: list[str], directory: Path, core: int, port: int) -> Iterator[peers.Server]:
    log = directory / f"{Path(command[0]).name}-{port}.log"
    with measure.pinned(core), log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield peers.Server("127.0.0.1", port, process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _pure(is_pure: bool) -> Iterator[None]:
    """Have clusterdns start without its C extension meanwhile."""
    before = os.environ.pop("CLUSTERDNS_PURE", None)
    if is_pure:
        os.environ["CLUSTERDNS_PURE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("CLUSTERDNS_PURE", None)
        if before is not None:
            os.environ["CLUSTERDNS_PURE"] = before


def _wait_for(server: peers.Server, qname: str) -> None:
    """Return as soon as a name resolves."""
    query = dns.message.make_query(qname, "A").to_wire()
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            reply = peers.ask_udp(server.address, query, timeout_s=1)
            if reply and dns.message.from_wire(reply).answer:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{server.process.args}: {qname} does not resolve:\n{server.output}")


def _knot(directory: Path, world: World, port: int) -> list[str]:
    conf = directory / "knot.conf"
    conf.write_text(f"""
server:
    rundir: "{directory}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    nsid: ""
database:
    storage: "{directory}/knot"
control:
    listen: "{directory}/knot.sock"
log:
  - target: stderr
    any: error
zone:
  - domain: {inputs.ZONE}
    storage: "{directory}"
    file: zone
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
""")
    return ["-c", str(conf)]


def _unbound(directory: Path, world: World, port: int) -> list[str]:
    conf = directory / "unbound.conf"
    conf.write_text(f"""
server:
    interface: 127.0.0.1@{port}
    access-control: 127.0.0.0/8 allow
    num-threads: 1
    so-rcvbuf: 4m
    so-sndbuf: 4m
    outgoing-range: 8192
    num-queries-per-thread: 4096
    msg-cache-size: 64m
    rrset-cache-size: 128m
    msg-cache-slabs: 1
    rrset-cache-slabs: 1
    infra-cache-slabs: 1
    key-cache-slabs: 1
    module-config: "iterator"
    minimal-responses: yes
    do-not-query-localhost: no
    do-daemonize: no
    use-syslog: no
    verbosity: 0
    rrset-roundrobin: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    include: "{directory}/local-data"
remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{world.upstream}
""")
    return ["-d", "-c", str(conf)]


def _dnsmasq(directory: Path, world: World, port: int) -> list[str]:
    return [
        "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
        f"--addn-hosts={directory}/hosts", f"--local=/{inputs.ZONE}/",
        f"--server=127.0.0.1#{world.upstream}", "--cache-size=10000", "--dns-forward-max=4096",
        "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={port}", "--user=", "--group=",
        f"--pid-file={directory}/dnsmasq.pid",
    ]  # fmt: skip


_KINDS = {
    KNOT: Kind("knotd", "knot", frozenset({"zone", "srv", "tcp"}), _knot),
    UNBOUND: Kind(
        "unbound", "unbound", frozenset({"zone", "srv", "external", "unique", "tcp"}), _unbound
    ),
    DNSMASQ: Kind("dnsmasq", "dnsmasq-base", frozenset({"zone", "external"}), _dnsmasq),
}
NAMES = (ECHO, CLUSTERDNS, PURE, COREDNS, COMPILED, COMPILED_PURE, *_KINDS)
