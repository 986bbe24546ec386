"""Random clusters and random questions about them, the same for the same seed.

``Cluster(seed)`` has manifests, the options of the ``kubernetes`` directive, and the rest of a
Corefile; ``questions`` are about what is there, what almost is, and what is not. They grow with the
features that are compared.
"""

from __future__ import annotations

import ipaddress
import random
import string
from typing import Any, NamedTuple

from casefile import Scripted

Manifest = dict[str, Any]

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, DS, AXFR, ANY, HTTPS = (
    1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 43, 252, 255, 65,
)  # fmt: skip
COMMON_TYPES = (A, A, A, AAAA, AAAA, SRV, SRV, PTR, NS, SOA, TXT, CNAME, MX, ANY, HTTPS, HINFO, DS)

OUTSIDE = (
    Scripted("www.example.com.", "answer", 300, 1, A, "192.0.2.1"),
    Scripted("www.example.com.", "answer", 300, 1, AAAA, "2001:db8::1"),
    Scripted("two.example.com.", "answer", 3, 1, A, "192.0.2.2"),
    Scripted("two.example.com.", "answer", 3, 1, A, "192.0.2.3"),
    Scripted("alias.example.com.", "answer", 60, 1, CNAME, "www.example.com."),
    Scripted("empty.example.com.", "nodata"),
    Scripted("broken.example.com.", "servfail"),
    Scripted("mail.example.com.", "answer", 60, 1, MX, "10 www.example.com."),
    *(Scripted("many.example.com.", "answer", 60, 1, A, f"192.0.2.{i}") for i in range(10, 60)),
)


class Asked(NamedTuple):
    """One question: a name as text with its letter case, a type and a class."""

    qname: str
    qtype: int
    qclass: int = 1


class Cluster:
    """A cluster made from a seed; ``local`` is an address of this host that is not loopback."""

    def __init__(self, seed: int, local: tuple[str, ...] = ()) -> None:
        self.random = random.Random(seed)
        self.manifests: list[Manifest] = []
        self.names: list[str] = []  # below the zone, without its labels
        self.addresses: list[str] = []
        self.headless: set[str] = set()  # "service.namespace" whose order is unspecified
        self._local = local
        self.namespaces = [f"ns{i}" for i in range(self.random.randint(1, 4))]
        if self.random.random() < 0.3:
            self.namespaces.append("kube-system")
        for i, namespace in enumerate(self.namespaces):
            labels = {"team": self.random.choice("ab")}
            if i or self.random.random() < 0.9:  # sometimes a Namespace object is missing
                self._add("Namespace", "", namespace, labels=labels)
            for _ in range(self.random.randint(2, 12)):
                self._add_service(namespace)
            for j in range(self.random.randint(0, 4)):
                self._add_pod(namespace, j)
        self.zones, self.options = self._options()
        self.has_loadbalance = self.random.random() < 0.5
        self.has_cache = self.random.random() < 0.4
        self.has_forward = self.random.random() < 0.6
        self.has_errors = self.random.random() < 0.5
        self.is_split = self.random.random() < 0.4
        self.is_bound = self.random.random() < 0.3

    # ---- objects ------------------------------------------------------------------------------

    def _add(self, kind: str, namespace: str, name: str, **rest: Any) -> None:
        metadata: Manifest = {"name": name}
        if namespace:
            metadata["namespace"] = namespace
        labels = rest.pop("labels", None)
        if labels:
            metadata["labels"] = labels
        self.manifests.append({"kind": kind, "metadata": metadata, **rest})

    def _name(self) -> str:
        letters = string.ascii_lowercase + string.digits
        return self.random.choice(string.ascii_lowercase) + "".join(
            self.random.choice(letters) for _ in range(self.random.randint(1, 8))
        )

    def _address(self, is_six: bool, *, is_shared: bool = True) -> str:
        """Return an address, now and then one of another endpoint or Pod.

        Of a Service it is its own, as the API server sees to: which of two had the PTR would be
        left to a Go map.
        """
        if self.addresses and is_shared and self.random.random() < 0.08:
            taken = self.random.choice(self.addresses)
            if (":" in taken) == is_six:
                return taken
        found = ""
        while not found or (found in self.addresses and not is_shared):
            number = 0xFD00 << 112 | self.random.getrandbits(40)
            parts = (
                self.random.randint(0, 3),
                self.random.randint(0, 3),
                self.random.randint(1, 254),
            )
            found = str(ipaddress.IPv6Address(number)) if is_six else "10.{}.{}.{}".format(*parts)
        self.addresses.append(found)
        return found

    def _ports(self, is_slice: bool = False) -> list[Manifest]:
        pool = [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "https", "port": 443, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"name": "Web" if is_slice else "web", "port": 8080, "protocol": "TCP"},
            {"name": "sctp", "port": 132, "protocol": "SCTP"},
        ]
        roll = self.random.random()
        if roll < 0.1:
            return []
        if roll < 0.3:
            unnamed: Manifest = {"port": self.random.randint(1, 65535), "protocol": "TCP"}
            return [{**unnamed, "name": ""}] if is_slice else [unnamed]
        return self.random.sample(pool, self.random.randint(1, 4))

    def _add_service(self, namespace: str) -> None:
        name = self._name()
        kind = self.random.choice(
            ["ClusterIP"] * 4 + ["headless"] * 4 + ["ExternalName"] * 3 + ["NodePort", "dual", "six", "LoadBalancer"]
        )  # fmt: skip
        labels = {"app": self.random.choice("xyz")}
        self.names.append(f"{name}.{namespace}.svc")
        if kind == "ExternalName":
            spec = {"type": "ExternalName", "externalName": self._external_name(name, namespace)}
            self._add("Service", namespace, name, labels=labels, spec=spec)
            return
        ports = self._ports()
        for port in ports:
            protocol = port["protocol"].lower()
            if port.get("name"):
                self.names.append(f"_{port['name']}._{protocol}.{name}.{namespace}.svc")
        addresses = {
            "headless": ["None"],
            "dual": [self._address(False, is_shared=False), self._address(True, is_shared=False)],
            "six": [self._address(True, is_shared=False)],
        }.get(kind) or [self._address(False, is_shared=False)]
        spec: Manifest = {
            "type": kind if kind in ("NodePort", "LoadBalancer") else "ClusterIP",
            "clusterIP": addresses[0],
            "ports": ports,
        }
        if self.random.random() < 0.9:
            spec["clusterIPs"] = addresses
        else:
            addresses = addresses[:1]
        self._add("Service", namespace, name, labels=labels, spec=spec)
        if kind == "headless":
            self.headless.add(f"{name}.{namespace}")
        for i in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            self._add_slice(namespace, name, i, labels)

    def _external_name(self, name: str, namespace: str) -> str:
        roll = self.random.random()
        if roll < 0.4:
            return self.random.choice(OUTSIDE).name.rstrip(".")
        if roll < 0.5:
            return self.random.choice(["192.0.2.9", "2001:db8::9"])
        if roll < 0.55:
            return f"{name}.{namespace}.svc.cluster.local"  # itself
        if roll < 0.6:
            return f"nothing.{namespace}.svc.cluster.local."
        if roll < 0.65:
            return "nothing.example.com."
        return f"{self.random.choice(self.names)}.cluster.local"

    def _add_slice(self, namespace: str, service: str, i: int, labels: dict[str, str]) -> None:
        is_six = self.random.random() < 0.2
        many = self.random.random() < 0.08
        endpoints = []
        for j in range(self.random.randint(20, 60) if many else self.random.randint(0, 5)):
            endpoint: Manifest = {"addresses": [self._address(is_six)]}
            if self.random.random() < 0.02 and self._local and not is_six:
                endpoint["addresses"] = [self._local[0]]
            if self.random.random() < 0.4:
                endpoint["hostname"] = f"pod-{j}"
            ready = self.random.choice([True, True, True, False, None])
            if ready is not None:
                endpoint["conditions"] = {"ready": ready, "serving": True, "terminating": False}
            if self.random.random() < 0.5:
                target = f"{service}-{j}" + ("x" * 60 if self.random.random() < 0.1 else "")
                endpoint["targetRef"] = {"kind": "Pod", "name": target, "namespace": namespace}
            endpoints.append(endpoint)
            dashed = endpoint["addresses"][0].replace(".", "-").replace(":", "-")
            for label in (endpoint.get("hostname"), dashed, f"{service}-{j}"):
                if label and self.random.random() < (0.1 if many else 0.7):
                    self.names.append(f"{label}.{service}.{namespace}.svc")
        ports = self._ports(is_slice=True)
        for port in ports:
            if port.get("name"):
                protocol = port["protocol"].lower()
                self.names.append(f"_{port['name']}._{protocol}.{service}.{namespace}.svc")
        self._add(
            "EndpointSlice",
            namespace,
            f"{service}-{i}",
            labels={**labels, "kubernetes.io/service-name": service},
            addressType="IPv6" if is_six else "IPv4",
            ports=ports,
            endpoints=endpoints,
        )

    def _add_pod(self, namespace: str, i: int) -> None:
        address = self._address(self.random.random() < 0.1)
        status = {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
        if self.random.random() < 0.2:
            status["phase"] = self.random.choice(["Succeeded", "Failed", "Pending"])
        self._add("Pod", namespace, f"pod-{i}", labels={"app": "x"}, status=status)
        dashed = address.replace(".", "-").replace(":", "-")
        self.names += [f"{dashed}.{namespace}.pod", f"x.{dashed}.{namespace}.pod"]

    # ---- configuration ------------------------------------------------------------------------

    def _options(self) -> tuple[list[str], list[str]]:
        """Return the zones and the options of the `kubernetes` directive."""
        roll = self.random.random
        zones = ["cluster.local"]
        if roll() < 0.7:
            zones += self.random.choice(
                [["in-addr.arpa", "ip6.arpa"], ["10.0.0.0/8"], ["10.0.0.0/15", "fd00::/8"]]
            )
        if roll() < 0.15:
            zones.append("second.example")
        options = []
        if roll() < 0.7:
            options.append(f"pods {self.random.choice(['disabled', 'insecure', 'verified'])}")
        if roll() < 0.5:
            options.append(f"ttl {self.random.choice([0, 1, 5, 30, 60, 3600])}")
        if roll() < 0.3:
            options.append("endpoint_pod_names")
        if roll() < 0.1:
            options.append("noendpoints")
        if roll() < 0.2:
            options.append("ignore empty_service")
        if roll() < 0.5:
            options.append(self.random.choice(["fallthrough", "fallthrough in-addr.arpa ip6.arpa"]))
        if roll() < 0.15:
            options.append(f"namespaces {' '.join(self.random.sample(self.namespaces, 1))}")
        elif roll() < 0.15:
            options.append("namespace_labels team=a")
        if roll() < 0.12:
            options.append(
                f"labels {self.random.choice(['app=x', 'app notin (x)', 'app in (x, y)'])}"
            )
        return zones, options

    def corefile(self, source: str, upstream: str) -> str:
        """Return a Corefile; ``source`` is the line that says where the objects come from."""
        inner = "\n".join(f"        {option}" for option in [source, *self.options])
        kubernetes = f"    kubernetes {' '.join(self.zones)} {{\n{inner}\n    }}"
        common = ["    bind 127.0.0.1"] if self.is_bound else []
        if self.has_errors:
            common.append("    errors")
        if self.has_loadbalance:
            common.append("    loadbalance")
        if self.has_cache:
            common.append("    cache 30")
        forward = [f"    forward . {upstream}"] if self.has_forward else []
        if not self.is_split:
            return "\n".join([". {", *common, kubernetes, *forward, "}", ""])
        first = ["cluster.local second.example arpa {", *common, kubernetes, "}"]
        last = forward or ([] if self.has_errors else ["    errors"])
        return "\n".join([*first, ". {", *common, *last, "}", ""])

    # ---- questions ----------------------------------------------------------------------------

    def questions(self, count: int) -> list[Asked]:
        """Return ``count`` different questions."""
        found: dict[tuple[str, int, int], Asked] = {}
        while len(found) < count:
            asked = self._question()
            found.setdefault((asked.qname.lower(), asked.qtype, asked.qclass), asked)
        return list(found.values())

    def _question(self) -> Asked:
        qname = self._cased(self._qname())
        qtype = self.random.choice(COMMON_TYPES)
        if qname.lower().endswith(".arpa.") and self.random.random() < 0.7:
            qtype = PTR
        qclass = 1 if self.random.random() < 0.97 else self.random.choice([3, 4, 255, 7])
        return Asked(qname, qtype, qclass)

    def _cased(self, qname: str) -> str:
        if self.random.random() < 0.85:
            return qname
        return "".join(self.random.choice([c.lower(), c.upper()]) for c in qname)

    def _qname(self) -> str:
        roll = self.random.random()
        zone = "cluster.local." if self.random.random() < 0.95 else "second.example."
        if roll < 0.45:
            return f"{self.random.choice(self.names)}.{zone}"
        if roll < 0.6:
            return f"{self._near_miss(self.random.choice(self.names))}.{zone}"
        if roll < 0.7:
            return self._reverse()
        if roll < 0.8:
            outside = self.random.choice(OUTSIDE).name
            if self.random.random() < 0.5:
                return outside
            return f"{outside}{self.random.choice(self.namespaces)}.svc.{zone}"
        if roll < 0.9:
            return self.random.choice(self._specials(zone))
        return f"{self._name()}.{self.random.choice(['', 'svc.', 'pod.', 'example.com.', 'com.'])}{zone}"

    def _near_miss(self, below: str) -> str:
        labels = below.split(".")
        roll = self.random.randrange(6)
        i = self.random.randrange(len(labels))
        if roll == 0:
            labels[i] = self._name()
        elif roll == 1:
            del labels[i]
        elif roll == 2:
            labels.insert(i, self.random.choice(["x", "_http", "_tcp", "_", "*", "any", "_udp"]))
        elif roll == 3:
            labels[0] = labels[0].lstrip("_") or "x"
        elif roll == 4:
            labels[i] = "_" + labels[i]
        else:
            labels[-1] = self.random.choice(["svc", "pod", "svcs", "endpoints"])
        return ".".join(labels) or "x"

    def _reverse(self) -> str:
        address = self.random.choice([*self.addresses, "10.9.9.9", "192.0.2.1", "fd00::ffff"])
        pointer = ipaddress.ip_address(address).reverse_pointer + "."
        roll = self.random.random()
        if roll < 0.1:
            return "x." + pointer
        if roll < 0.2:
            return pointer.partition(".")[2]
        return pointer

    def _specials(self, zone: str) -> list[str]:
        namespace = self.random.choice(self.namespaces)
        return [
            zone, f"svc.{zone}", f"pod.{zone}", f"{namespace}.svc.{zone}", f"{namespace}.pod.{zone}",
            f"dns-version.{zone}", f"ns.dns.{zone}", f"dns.{zone}", f"x.dns-version.{zone}",
            "in-addr.arpa.", "ip6.arpa.", "10.in-addr.arpa.", f"{namespace}.{zone}", "local.", ".",
            f"_http._tcp.{zone}", f"hostmaster.{zone}", f"ns.dns.{zone}{zone}", "svc.in-addr.arpa.",
            f"1-2-3-4.{namespace}.pod.{zone}", f"fd00--1.{namespace}.pod.{zone}",
            "x.svc.10.in-addr.arpa.", f"{namespace}.svc.in-addr.arpa.", f"a.ns.dns.{zone}",
            f"1-2-3.{namespace}.pod.{zone}", f"a.b.1-2-3-4.{namespace}.pod.{zone}",
        ]  # fmt: skip

    def is_ordered(self, qname: str) -> bool:
        """Tell whether the order of an answer is specified: that of one Service's own addresses."""
        labels = qname.lower().rstrip(".").split(".")
        if self.has_loadbalance or "svc" not in labels:
            return False
        left = labels[: labels.index("svc")]
        if len(left) == 3:  # an endpoint
            return False
        return len(left) >= 2 and ".".join(left[-2:]) not in self.headless
