"""`clusterdns check`: what a Corefile would serve, and all that stands in the way, with its line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from clusterdns.commands import difference
from clusterdns.config import check
from clusterdns.config.configmap import read

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy" / "base" / "configmap.yaml"
KUBEADM = yaml.safe_load(BASE.read_text())["data"]["Corefile"]
MISTAKEN = """\
# comment
.:53 example.org {
    errors
    nomad name a b
    forwad . 192.0.2.1
    route53 {
        ttl 60
    }
    kubernetes cluster.local {
        pods insecure
        bogus yes
    }
    cache 30 {
        success none
    }
    forward . 192.0.2.1
}
quic://example.net {
    whoami
}
.:53 {
    whoami
}
"""
REFUSED = (
    "{}:4: nomad: reads names from Nomad, which clusterdns does not",
    '{}:5: forwad: unknown directive, did you mean "forward"?',
    "{}:6: route53: reads zones from Amazon Route 53, which clusterdns does not",
    "{}:11: bogus: unknown property",
    "{}:14: success: wants a whole number of at least 0, got 'none'",
    "{}:18: quic://example.net: quic:// is not supported by clusterdns yet",
    "{}:21: .:53: cannot serve dns://.:53 - it is already defined",
)


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with nothing of a Pod's environment."""
    return subprocess.run(
        [sys.executable, "-m", "clusterdns", "check", *arguments],
        input=text,
        env={k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def configmap(text: str, **other: str) -> dict[str, object]:
    metadata = {"name": "coredns", "namespace": "kube-system"}
    data = {"Corefile": text, **other}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def lines(done: subprocess.CompletedProcess[str], kind: str) -> list[str]:
    """Return the findings of a kind, without their columns."""
    text = re.sub(r"(:\d+):\d+: ", r"\1: ", done.stdout)
    found = (line.strip().partition(" ") for line in text.splitlines() if line[:1] == " ")
    return [rest.strip() for first, _, rest in found if first == kind]


def test_kubeadms_corefile_is_fine_outside_a_pod(tmp_path):
    (tmp_path / "Corefile").write_text(KUBEADM)
    done = run(str(tmp_path / "Corefile"))
    assert (0, "") == (done.returncode, done.stderr)
    assert [".:53"] == lines(done, "serves")
    assert done.stdout.endswith("clusterdns can serve it as it is\n")


def test_a_configmap_from_a_file_and_as_kubectl_pipes_it():
    for done in (run(str(BASE)), run("-", text=BASE.read_text())):
        assert (0, "", [".:53"]) == (done.returncode, done.stderr, lines(done, "serves"))
        assert ": ConfigMap kube-system/coredns, key Corefile\n" in done.stdout


def test_every_mistake_is_told_with_its_line(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(MISTAKEN)
    done = run(str(path))
    assert 1 == done.returncode
    expected = [line.format(path) for line in REFUSED]
    assert expected == lines(done, "refused")
    assert [".:53", "example.org.:53"] == lines(done, "serves")
    assert "plugins of CoreDNS that clusterdns does not have: nomad, route53\n" in done.stdout
    assert done.stdout.endswith("7 refused: clusterdns would not start with it\n")


def test_lines_are_those_of_the_manifest_where_it_has_them(tmp_path):
    path = tmp_path / "cm.yaml"
    path.write_text(yaml.safe_dump(configmap(MISTAKEN), default_style="|", sort_keys=True))
    whole = path.read_text().splitlines()
    first = next(line for line in lines(run(str(path)), "refused"))
    at = int(first.removeprefix(f"{path}:").partition(":")[0])
    assert "nomad name a b" == whole[at - 1].strip()


def test_lines_are_those_of_the_key_in_json(tmp_path):
    path = tmp_path / "cm.json"
    path.write_text(json.dumps(configmap(MISTAKEN)))
    assert f"{path}[Corefile]:4:5: nomad" in run(str(path)).stdout


def test_a_broken_grammar_is_told(tmp_path):
    done = run("-", text=". {\n whoami\n")
    assert 1 == done.returncode
    assert len(lines(done, "refused")) == 1
    assert lines(done, "refused")[0].startswith("stdin:")


def test_imports_are_found_in_the_configmaps():
    custom = configmap("")
    custom |= {
        "metadata": {"name": "coredns-custom", "namespace": "kube-system"},
        "data": {"a.override": "log\n", "b.server": "example.org {\n whoami\n}\n"},
    }
    text = (
        ". {\n errors\n import custom/*.override\n import more\n}\n"
        "import /etc/coredns/custom/*.server\n"
    )
    both = yaml.safe_dump_all([configmap(text, more="whoami\nnonsense\n"), custom])
    done = run("-", text=both)
    assert [".:53", "example.org.:53"] == lines(done, "serves")
    assert ["/etc/coredns/more:2: nonsense: unknown directive"] == lines(done, "refused")
    assert [] == lines(done, "warning")


def test_a_file_of_the_pod_is_no_mistake_in_a_configmap_and_is_one_in_a_corefile(tmp_path):
    text = ". {\n bind nodelocaldns\n kubernetes {\n  kubeconfig /no/such/file\n }\n}\n"
    done = run("-", text=yaml.safe_dump(configmap(text)))
    assert (0, [".:53"]) == (done.returncode, lines(done, "serves"))
    assert "kubeconfig: /no/such/file: No such file" in "".join(lines(done, "not"))
    assert "bind: 'nodelocaldns' is no address" in "".join(lines(done, "not"))
    assert 1 == run("-", text=text).returncode


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (yaml.safe_dump(configmap("")).replace("Corefile", "other"), "no ConfigMaps with the key"),
        ("apiVersion: v1\nkind: [\n", "stdin:3: "),
        ("---\n".join([BASE.read_text()] * 2), "2 ConfigMaps with the key Corefile"),
        ("{}", "no ConfigMaps with the key"),
    ],
)
def test_what_holds_no_corefile_is_another_exit_status(text, reason):
    done = run("-", text=text)
    assert (2, "") == (done.returncode, done.stdout)
    assert reason in done.stderr


def test_no_such_file_and_no_argument():
    assert 2 == run("/no/such/file").returncode
    assert 2 == run().returncode


def test_the_port_of_keys_that_name_none():
    assert [".:1053"] == lines(run("-", "-p", "1053", text=". {\n whoami\n}\n"), "serves")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "\0", "{", "}", '"', "import\n", ". {\n}\n" * 9]
)
def test_any_text_gets_findings(tmp_path, text):
    path = tmp_path / "Corefile"
    path.write_text(text)
    found = run(str(path))
    assert found.returncode in (0, 1, 2)
    assert "Traceback" not in found.stderr


def test_a_corefile_of_many_mistakes_is_bounded(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(". {\n" + " nonsense\n" * 1000 + "}\n")
    found = check.check(read(path), port=53)
    assert check.MAX_MISTAKES == len(found.refused)


def test_what_keeps_queries_off_the_fast_path_is_told():
    text = (
        '. {\n log . "{/kubernetes/service}"\n loadbalance {\n  prefer 10.0.0.0/8\n }\n forward . 192.0.2.1\n}\n'
        "cluster.local {\n log\n autopath /dev/null\n kubernetes\n}\n"
    )
    done = run("-", text=text)
    told = [PLACE.sub("", line).split(",")[0] for line in lines(done, "slow")]
    assert [
        ". log: logs labels",
        ". log: logs labels",
        ". loadbalance: sees each query for a name outside",
        "cluster.local. autopath: may treat names differently",
    ] == told
    assert 0 == done.returncode
    assert [] == lines(run("-", text=KUBEADM), "slow")


def test_a_preference_of_addresses_keeps_names_outside_off_the_relay():
    text = ". {\n loadbalance {\n  prefer 10.0.0.0/8\n }\n forward . 192.0.2.1\n}\n"
    (told,) = lines(run("-", text=text), "slow")
    assert told.startswith("stdin:2: . loadbalance: sees each query for a name outside")


PLACE = re.compile(r"stdin:\d+: ")
SLOW = {
    # Every zone of a block is looked at, and told of once where the reason is the same.
    "a.test b.test {\n loadbalance {\n prefer 10.0.0.0/8\n }\n forward . 192.0.2.1\n}": [
        f"a.test. b.test. loadbalance: {check._NO_RELAY}"
    ],
    "a.test b.test c.test d.test e.test {\n cancel 1s\n forward . 192.0.2.1\n}": [
        "a.test. b.test. c.test. and 2 more cancel: "
        "gives up before 5s, which the relay in C does not"
    ],
    "a.test b.a.test {\n cache 30 b.a.test\n forward . 192.0.2.1\n}": [
        "a.test. cache: keeps some names of the zone only, so none takes the relay in C"
    ],
    # What `forward` itself is told, all of it.
    ". {\n forward . tls://192.0.2.1 {\n policy fastest\n failover REFUSED\n }\n}": [
        ". forward: `policy fastest` is not for the relay in C",
        ". forward: `failover` is not for the relay in C",
        ". forward: `tls://` is not for the relay in C",
    ],
    ". {\n forward . 192.0.2.1 https://192.0.2.2 {\n tls\n}\n}": [
        ". forward: `https://` is not for the relay in C",
    ],
    ". {\n forward . 192.0.2.1 {\n tls\n}\n}": [],
    ". {\n forward . 192.0.2.1 {\n next NXDOMAIN\n force_tcp\n next_on_nodata\n }\n}": [
        ". forward: `force_tcp` is not for the relay in C",
        ". forward: `next` is not for the relay in C",
        ". forward: `next_on_nodata` is not for the relay in C",
    ],
    # What forwards nothing in its zones has nothing to relay.
    ". {\n loadbalance {\n prefer 10.0.0.0/8\n }\n whoami\n}": [
        ". whoami: sees each query, so no answer behind it is repeated from the table"
    ],
    "a.test {\n loadbalance {\n prefer 10.0.0.0/8\n }\n forward b.test 192.0.2.1\n}": [],
    "cluster.local . {\n log . {remote}\n kubernetes cluster.local\n forward . 192.0.2.1\n}": [],
    # Which server block it is depends on who asks.
    ". {\n view one {\n expr true\n }\n forward . 192.0.2.1\n}\n. {\n forward . 192.0.2.2\n}": [
        ". view: depends on the query, so none for a name outside takes the relay in C"
    ]
    * 2,
}


@pytest.mark.parametrize("text", SLOW)
def test_every_reason_for_the_slow_way_is_told_in_every_zone(text):
    told = lines(run("-", text=text + "\n"), "slow")
    assert SLOW[text] == [PLACE.sub("", each) for each in told]
    assert all(PLACE.match(each) for each in told)


MISTYPED = {
    "errors": "consolidat 5m x", "health": "lameduk 5s", "ready": "monitr continuously",
    "prometheus": "runtime_metric", "cache": "sucess 5000", "forward . 192.0.2.1": "max_concurent 9",
    "kubernetes": "fallthru", "hosts": "fallthrogh", "log": "clas error",
    "template IN A": "fallthrou", "dns64": "translateall", "loadbalance": "prefr 10.0.0.0/8",
    "timeouts": "reed 5s", "transfer": "two *", "bind 127.0.0.1": "exept lo", "local": "localhostprefix on",
}  # fmt: skip


@pytest.mark.parametrize("directive", MISTYPED)
def test_a_property_that_was_mistyped_is_told_what_it_may_be(directive):
    mistyped = MISTYPED[directive]
    done = run("-", text=f". {{\n {directive} {{\n  {mistyped}\n }}\n}}\n")
    told = lines(done, "refused")[-1]  # those of a block that is empty without it come first
    assert told.startswith(f"stdin:3: {mistyped.split()[0]}: unknown property, did you mean "), told


def test_the_properties_that_are_guessed_from_are_those_of_the_manual():
    found = 0
    for path in sorted((ROOT / "clusterdns").glob("*/*.py")):
        text = path.read_text()
        plugin = _PLUGIN_OF.get(path.parent.name, path.stem)
        manual = ROOT / "clusterdns/plugins" / f"{plugin}.py"
        for call in re.findall(r"\.unknown\(([^)]*)\)", text):
            known = re.findall(r'"(\w+)"', call)
            found += len(known)
            assert [] == [word for word in known if word not in _manual(manual)], path
    assert found > 80


# The plugin whose directive a folder reads.
_PLUGIN_OF = {
    "caching": "cache",
    "cluster": "kubernetes",
    "forwarding": "forward",
    "templating": "template",
}


def _manual(path: Path) -> str:
    return path.read_text().split('"""')[1] + _NOT_IN_MANUALS


# What CoreDNS takes and we ignore, or refuse.
_NOT_IN_MANUALS = " upstream runtime_metrics tls "


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        ("health 127.0.0.1:8o80", "wants a port from 0 to 65535, got '8o80'"),
        ("health 127.0.0.1:80800", "wants a port from 0 to 65535, got '80800'"),
        ("health 8080", "wants HOST:PORT or :PORT, got '8080'"),
        ("health 127.0.0.1", "wants HOST:PORT or :PORT, got '127.0.0.1'"),
        ("ready ::1:8181", "an IPv6 address stands in brackets: [::1]:8181"),
        ("ready fd00::1:8181", "an IPv6 address stands in brackets: [fd00::1]:8181"),
        ("ready [::1:8181", "'[::1' is no IP address"),
        ("prometheus 10.0.0:9153", "'10.0.0' is no IP address"),
        ("prometheus [10.0.0.1]:9153", "an IPv6 address stands in brackets: [10.0.0.1]:9153"),
        ("prometheus a/b:9153", "'a/b' is no address and no host name"),
        ("prometheus :9153 :9154", "takes one argument"),
    ],
)
def test_an_address_to_listen_at_is_read_before_it_is_listened_at(directive, reason):
    done = run("-", text=f". {{\n whoami\n {directive}\n}}\n")
    assert [f"stdin:3: {directive.split()[0]}: {reason}"] == lines(done, "refused")


@pytest.mark.parametrize(
    "address", ["", ":8080", "localhost:0", "[::1]:1", "[fe80::1%lo]:1", "a-b.c:8"]
)
def test_addresses_to_listen_at(address):
    assert [] == lines(run("-", text=f". {{\n health {address}\n}}\n"), "refused")


def test_fragments_that_would_be_left_out_are_told_with_all_their_mistakes():
    custom = configmap("")
    custom |= {
        "metadata": {"name": "coredns-custom", "namespace": "kube-system"},
        "data": {
            "a.override": "nonsense\nlog {\n class none\n}\n",
            "b.override": "cache 10\n",
            "c.server": "example.org {\n",
            "d.server": "example.net {\n whoami\n}\n",
        },
    }
    text = ". {\n import custom/*.override\n cache 30\n}\nimport custom/*.server\n"
    done = run("-", text=yaml.safe_dump_all([configmap(text), custom]))
    assert 1 == done.returncode
    assert [
        "/etc/coredns/custom/a.override:1: nonsense: unknown directive",
        "/etc/coredns/custom/a.override:3: class: unknown class 'none'",
        "/etc/coredns/custom/b.override: with it: stdin[Corefile]:3: cache: "
        "may be given once in a server block",
        "/etc/coredns/custom/c.server:1: {: is not closed before the end of the file",
    ] == _left_out(done)
    assert [".:53", "example.net.:53"] == lines(done, "serves")
    assert [] == lines(done, "refused")
    assert done.stdout.endswith("clusterdns can serve it without 3 files left out\n")


def _left_out(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("out").strip() for line in lines(done, "left")]


def test_warnings_are_part_of_the_report_and_told_once(tmp_path):
    text = f". {{\n root {tmp_path}/none\n nonsense\n whoami\n}}\n"
    done = run("-", text=text)
    assert "" == done.stderr
    assert [f"plugin/root: root path does not exist: {tmp_path}/none"] == lines(done, "warning")


def test_what_stands_before_broken_grammar_is_looked_at():
    done = run("-", text="a {\n nonsense\n}\nb {\n whoami\n")
    assert [
        "stdin:2: nonsense: unknown directive", "stdin:4: {: is not closed before the end of the file"
    ] == lines(done, "refused")  # fmt: skip


def test_what_works_here_and_not_as_it_looks_or_not_in_coredns_is_warned_of():
    text = (
        "example.org:53 {\n health :8080 { lameduck 5s }\n cache 30s\n bufsize 1232 {\n  some\n }\n"
        " bufsize 512\n health {\n  lameduck 6s\n }\n log\n log example.org\n}\n"
    )
    done = run("-", text=text)
    assert 0 == done.returncode
    assert [
        "stdin:2: CoreDNS takes this } for an argument of 'lameduck'; let it start a line",
        "stdin:4: bufsize: its block is ignored",
        "plugin/cache: stdin:3: '30s' is taken for a zone; a TTL is a number of seconds without a unit",
        "stdin:7: bufsize: given once more; only the first one counts",
        "stdin:8: health: given once more; each adds to those before it",
    ] == lines(done, "warning")


HIDING = """\
. {
    forward . tcp://1 {
        max_fails x
        policy none
    }
    dnstap {
        nope
        extra
    }
    health 127.0.0.1:9x {
        lameduck q
    }
    kubernetes bad..zone {
        pods nonsense
        ttl -1
        endpoint https://10.0.0.1
    }
    hosts /none a..b {
        ttl x
        fallthrough
        10.0.0.1 foo
    }
}
"""


def test_mistakes_in_the_block_of_a_directive_whose_arguments_are_refused(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(HIDING)
    done = run(str(path))
    refused = [int(n) for n in re.findall(r"refused +\S+Corefile:(\d+):", done.stdout)]
    assert [2, 3, 4, 6, 7, 8, 10, 11, 13, 14, 15, 18, 19, 21] == refused
    assert "14 refused" in done.stdout


def test_arguments_that_stand_in_leave_no_warning(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(". {\n forward . tcp://1 {\n policy none\n }\n}\n")
    assert "warning" not in run(str(path)).stdout


ODD = """\
.:53 {
    forward . 127.0.0.1:1053
    cache
    kubernetes cluster.local {
        endpoint http://127.0.0.1:1
    }
    file ZONE svc.cluster.local
    whoami
}
.:1053 {
    forward . 127.0.0.1:53
}
shop.svc.cluster.local {
    whoami
}
empty.example {
    reload
}
a.example {
    forward . 192.0.2.10
    view all {
        expr true
    }
}
b.example {
    whoami
}
b.example {
    view late {
        expr true
    }
    whoami
}
"""
ZONE = "@ 60 IN SOA a b 1 2 3 4 5\n@ 60 IN NS a\n"
DNS_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 192.0.2.10, clusterIPs: [192.0.2.10]}
"""
ODD_REMARKS = [
    ("order", 1, 1, "plugins act in this order, whatever the text says: cache, kubernetes, file, forward, whoami"),
    ("loop", 2, 15, "127.0.0.1:1053 is this server: what is forwarded there comes back"),
    ("never", 7, 5, "never asked for svc.cluster.local.: kubernetes of line 4 answers all of cluster.local. before"),
    ("never", 8, 5, "never asked: forward of line 2 takes every name before it is asked"),
    ("loop", 11, 15, "127.0.0.1:53 is this server: what is forwarded there comes back"),
    ("shadows", 13, 1, "takes the names in shop.svc.cluster.local. from kubernetes of line 4, which answers cluster.local."),
    ("shadows", 13, 1, "takes the names in shop.svc.cluster.local. from file of line 7, which answers svc.cluster.local."),
    ("never", 16, 1, "no plugin of this server block answers: its names are refused"),
    ("loop", 20, 15, "192.0.2.10 is the Service of this DNS server: what is forwarded comes back"),
    ("never", 28, 1, "never chosen for b.example.: the block of line 25 has no `view` and takes every query"),
]  # fmt: skip


def odd(tmp_path: Path) -> Path:
    (tmp_path / "db").write_text(ZONE)
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "dns.yaml").write_text(DNS_SERVICE)
    path = tmp_path / "Corefile"
    path.write_text(ODD.replace("ZONE", str(tmp_path / "db")))
    return path


def test_what_is_odd_is_remarked_on(tmp_path):
    path = odd(tmp_path)
    done = run(str(path), "--json", "--manifests", str(tmp_path / "cluster"))
    (found,) = json.loads(done.stdout)["files"]
    remarks = [
        (each["kind"], each["line"], each["column"], each["text"])
        for each in found["messages"]
        if each["kind"] in ("order", "never", "loop", "shadows")
    ]
    assert (0, True) == (done.returncode, found["can_be_served"])
    assert ODD_REMARKS == remarks


def test_a_block_without_what_is_refused_is_not_said_to_answer_nothing(tmp_path):
    (tmp_path / "Corefile").write_text(". {\n forwad . 192.0.2.1\n}\nexample.org {\n}\n")
    (found,) = json.loads(run(str(tmp_path / "Corefile"), "--json").stdout)["files"]
    assert [("refused", 2), ("never", 4)] == [
        (each["kind"], each["line"]) for each in found["messages"]
    ]


def test_kubeadms_corefile_has_one_remark_its_order(tmp_path):
    (tmp_path / "Corefile").write_text(KUBEADM.replace("/etc/resolv.conf", "192.0.2.1"))
    done = run(str(tmp_path / "Corefile"))
    assert 1 == len(lines(done, "order"))
    assert [] == lines(done, "never") + lines(done, "loop") + lines(done, "shadows")


def test_annotations_for_github(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(MISTAKEN)
    done = run("--format", "github", str(path))
    assert 1 == done.returncode
    first = done.stdout.splitlines()[0]
    assert f"::error file={path},line=4,col=5,title=refused::nomad: " in first
    assert all(line.startswith("::") for line in done.stdout.splitlines())


def test_several_files_and_the_worst_of_them(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(".:53 {\n whoami\n}\n")
    bad.write_text(MISTAKEN)
    done = run(str(good), str(bad))
    assert 1 == done.returncode
    assert [".:53", ".:53", "example.org.:53"] == lines(done, "serves")
    done = run(str(good), str(tmp_path / "none"))
    assert (2, [".:53"]) == (done.returncode, lines(done, "serves"))
    assert "none" in done.stderr


def test_columns_are_those_of_the_words(tmp_path):
    path = tmp_path / "Corefile"
    path.write_text(".:53 {\n    cache 30 {\n        success none\n    }\n\tforwad . 1.1.1.1\n}\n")
    done = run(str(path))
    assert f"  refused   {path}:3:9: success: " in done.stdout
    assert f"  refused   {path}:5:2: forwad: " in done.stdout


def test_the_difference_of_two_files(tmp_path):
    zones = ROOT / "zones"
    old = (zones / "Corefile").read_text().replace("    file db", f"    file {zones}/db")
    old = old.replace("manifests cluster", f"manifests {zones}/cluster")
    new = old.replace("pods insecure", "pods insecure\n        namespaces uit default")
    new = new.replace(f"file {zones}/db.root .", "forward . 127.0.0.1:9")
    for path, text in (("old", old), ("new", new)):
        (tmp_path / path).write_text(text)
    done = run("--diff", str(tmp_path / "old"), str(tmp_path / "new"))
    found = done.stdout.splitlines()
    at = found.index("kube-dns.kube-system.svc.cluster.local. A")
    assert "- NOERROR, kube-dns.kube-system.svc.cluster.local. 30 IN A 10.96.0.10" == found[at + 1]
    assert "+ NXDOMAIN" == found[at + 2]
    assert not any("uit.svc" in line for line in found)
    at = found.index("10.0.96.10.in-addr.arpa. PTR")
    assert "+ left to forward" == found[at + 2]  # nothing is sent to it
    assert 1 == done.returncode
    assert found[-1].endswith(" answers differ")
    done = run("--diff", str(tmp_path / "old"), str(tmp_path / "old"), "--json")
    same = json.loads(done.stdout)
    assert (0, []) == (done.returncode, same["changed"])
    assert same["asked"] > 100
    done = run("--diff", str(tmp_path / "old"), str(tmp_path / "new"), "--format", "github")
    assert f"::warning file={tmp_path / 'new'},title=diff::kube-dns.kube-system" in done.stdout
    (tmp_path / "ttl").write_text(old.replace("ttl 30", "ttl 29"))
    done = run("--diff", str(tmp_path / "old"), str(tmp_path / "ttl"))
    number = done.stdout.splitlines()[-1].split()[0]
    assert done.stdout.endswith(f" answers differ, {number} of them in the TTL alone\n")
    (tmp_path / "two").write_text(f"{old}\n.:5300 {{\n    whoami\n}}\n")
    done = run("--diff", str(tmp_path / "old"), str(tmp_path / "two"))
    assert "web.uit.svc.cluster.local. A at dns://:5300\n- nobody listens there\n" in done.stdout
    done = run("--diff", str(tmp_path / "old"))
    assert (2, True) == (done.returncode, "wants two files" in done.stderr)
    done = run("--diff", str(tmp_path / "old"), "/nowhere")
    assert (2, "clusterdns: /nowhere: no such file or directory\n") == (
        done.returncode,
        done.stderr,
    )


def test_a_pipe_is_read_like_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text(".:53 {\n whoami\n}\n"))
    writer.start()
    done = run(str(path))
    writer.join()
    assert (0, True) == (done.returncode, f"{path}\n  serves    .:53\n" in done.stdout)


CORPUS = sorted((ROOT / "tests" / "peer" / "corefiles").glob("*.corefile"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corefiles_of_distributions_are_compared(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    one, other = (
        read(each)._replace(text=each.read_text().replace("CLUSTER_DNS", "192.0.2.10"))
        for each in (path.parent / "kubeadm.corefile", path)
    )
    manifests = ROOT / "zones" / "cluster"
    same = difference.between(other, other, port=53, manifests=manifests)
    found = difference.between(one, other, port=53, manifests=manifests)
    assert [] == same.changed
    assert found.asked >= 68
    assert list(found.lines())[-1].startswith(f"{len(found.changed)} of {found.asked} answers")


def test_what_objects_publish_and_is_left_out_is_told_with_manifests(tmp_path):
    (tmp_path / "Corefile").write_text(
        "example.org {\n kubernetes cluster.local\n ingress {\n  ttl 5\n }\n endpoint\n}\n"
    )
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    (cluster / "it.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, namespace: shop}\n"
        "spec: {rules: [{host: www.google.test}, {host: shop.example.org}]}\n"
    )
    told = "plugin/ingress: Ingress shop/x: www.google.test is in none of the zones: left out"
    done = run(str(tmp_path / "Corefile"), "--json", "--manifests", str(cluster))
    (found,) = json.loads(done.stdout)["files"]
    assert [told] == [each["text"] for each in found["messages"] if each["kind"] == "warning"]
    assert 1 == sum(each["kind"] == "never" for each in found["messages"])  # behind `endpoint`
    assert told in run(str(tmp_path / "Corefile"), "--manifests", str(cluster)).stdout
    assert told not in run(str(tmp_path / "Corefile")).stdout


def test_a_block_that_tells_of_the_cluster_without_policy_is_told(tmp_path):
    ruled = "cluster.local {\n policy {\n  nxdomain to namespace vault\n }\n kubernetes\n}\n"
    reverse = "10.in-addr.arpa {\n kubernetes cluster.local 10.in-addr.arpa\n}\n"
    path = tmp_path / "Corefile"
    path.write_text(ruled + reverse)
    (told,) = lines(run(str(path)), "open")
    assert told.startswith(f"{path}:7: kubernetes tells names here that policy may hide in the")
    policy = "{\n policy {\n  nxdomain to namespace vault\n }\n"
    for text in (ruled + reverse.replace("{\n", policy), reverse, ruled + ". {\n whoami\n}\n"):
        path.write_text(text)
        assert [] == lines(run(str(path)), "open"), text
