"""Random clusters, the same for the same seed, and how they go on changing.

``Cluster(seed)`` has manifests, the options of the ``kubernetes`` directive, and the rest of a
Corefile; ``change`` gives it other objects. What is asked about it is in ``questions``. They grow
with the features that are compared.
"""

from __future__ import annotations

import ipaddress
import random
import string
from typing import Any

from casefile import Scripted

Manifest = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace, name

A, CNAME, MX, AAAA = 1, 5, 15, 28

IMPORT_NAME = "multicluster.kubernetes.io/service-name"
IMPORTED = "clusterset.local"  # the zone of ServiceImports
TOPOLOGY_ZONES = ("us-a", "Eu.West", "1")

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


def key_of(manifest: Manifest) -> Key:
    """Return what tells an object from all others."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


class Cluster:
    """A cluster made from a seed; ``local`` are addresses of this host that are not loopback."""

    def __init__(self, seed: int, local: tuple[str, ...] = ()) -> None:
        self.random = random.Random(seed)
        self.manifests: list[Manifest] = []
        self.names: list[str] = []  # below the zone, without its labels
        self.addresses: list[str] = []
        self._local = local
        self._makers = {
            "Service": self._add_service, "Pod": self._add_pod, "ServiceImport": self._add_import
        }  # fmt: skip
        self.namespaces = [f"ns{i}" for i in range(self.random.randint(1, 4))]
        if self.random.random() < 0.3:
            self.namespaces.append("kube-system")
        for i, namespace in enumerate(self.namespaces):
            if i or self.random.random() < 0.9:  # sometimes a Namespace object is missing
                self._add_namespace(namespace)
            for _ in range(self.random.randint(2, 12)):
                self._add_service(namespace, self.name())
            for j in range(self.random.randint(0, 4)):
                self._add_pod(namespace, f"pod-{j}")
        self.zones, self.options = self._options()
        self.has_loadbalance = self.random.random() < 0.5
        self.has_cache = self.random.random() < 0.4
        self.has_forward = self.random.random() < 0.6
        self.has_errors = self.random.random() < 0.5
        self.is_split = self.random.random() < 0.4
        self.is_bound = self.random.random() < 0.3
        if self.random.random() < 0.3:
            self.zones.append(IMPORTED)
            self.options.append(f"multicluster {IMPORTED}")
            for namespace in self.namespaces:
                for _ in range(self.random.randint(1, 4)):
                    self._add_import(namespace, self.name())
        if "noendpoints" not in self.options and self.random.random() < 0.3:
            self.options.append("zonal")

    def change(self) -> tuple[list[Manifest], list[Key]]:
        """Replace, remove and add some objects; return those to apply and those to delete."""
        before = {key_of(manifest): manifest for manifest in self.manifests}
        for kind, namespace, name in list(before):
            roll = self.random.random()
            if kind in self._makers and roll < 0.3:
                self._remove(kind, namespace, name)
                if roll < 0.2:
                    self._makers[kind](namespace, name)
            elif kind == "EndpointSlice" and roll < 0.3:
                self._remake_slice(namespace, name, is_gone=roll < 0.1)
            elif kind == "Namespace" and roll < 0.15:
                self._remove(kind, "", name)
        for namespace in self.namespaces:
            if self.random.random() < 0.5:
                self._add_service(namespace, self.name())
                self._add_pod(namespace, f"new-{self.random.randint(0, 9)}")
            if not self._find("Namespace", "", namespace):
                self._add_namespace(namespace)
        after = {key_of(manifest): manifest for manifest in self.manifests}
        applied = [manifest for key, manifest in after.items() if before.get(key) != manifest]
        self.random.shuffle(applied)
        return applied, [key for key in before if key not in after]

    # ---- objects ------------------------------------------------------------------------------

    def _add(self, kind: str, namespace: str, name: str, **rest: Any) -> None:
        metadata: Manifest = {"name": name}
        if namespace:
            metadata["namespace"] = namespace
        labels = rest.pop("labels", None)
        if labels:
            metadata["labels"] = labels
        self._remove(kind, namespace, name)
        self.manifests.append({"kind": kind, "metadata": metadata, **rest})

    def _find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        wanted = (kind, namespace, name)
        return next((found for found in self.manifests if key_of(found) == wanted), None)

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object, and of a Service what belongs to it."""
        found = self._find(kind, namespace, name)
        if found is None:
            return
        self.manifests.remove(found)
        if kind == "Service":
            owned = {id(sliced) for sliced in self.slices_of(namespace, name)}
            self.manifests = [m for m in self.manifests if id(m) not in owned]

    def slices_of(self, namespace: str, service: str) -> list[Manifest]:
        """Return the EndpointSlices of a Service."""
        return [
            found
            for found in self.manifests
            if found["kind"] == "EndpointSlice"
            and found["metadata"]["namespace"] == namespace
            and found["metadata"]["labels"].get("kubernetes.io/service-name") == service
        ]

    def name(self) -> str:
        """Return a label that most likely is nobody's."""
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
        if is_six and is_shared and self.random.random() < 0.05:
            found = self.random.choice(  # text the API server takes but does not write itself
                [found.upper(), found.replace("::", ":0:0::"), "::ffff:10.1.1.1"]
            )
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
        if is_slice:  # what the controller leaves out means "any"
            pool += [{"name": "any"}, {"port": 99}, {"name": "bare", "port": 7, "protocol": None}]
        roll = self.random.random()
        if roll < 0.1:
            return []
        if roll < 0.3:
            unnamed: Manifest = {"port": self.random.randint(1, 65535), "protocol": "TCP"}
            return [{**unnamed, "name": ""}] if is_slice else [unnamed]
        return self.random.sample(pool, self.random.randint(1, 4))

    def _add_namespace(self, name: str) -> None:
        self._add("Namespace", "", name, labels={"team": self.random.choice("ab")})

    def _add_service(self, namespace: str, name: str) -> None:
        kind = self.random.choice(
            ["ClusterIP"] * 4 + ["headless"] * 4 + ["ExternalName"] * 3
            + ["NodePort", "dual", "six", "LoadBalancer", "LoadBalancer"]
        )  # fmt: skip
        labels = {"app": self.random.choice("xyz")}
        self.names.append(f"{name}.{namespace}.svc")
        if kind == "ExternalName":
            spec = {"type": "ExternalName", "externalName": self._external_name(name, namespace)}
            self._add("Service", namespace, name, labels=labels, spec=spec)
            return
        ports = self._ports()
        self._add_port_names(ports, name, namespace)
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
        status: Manifest = {}
        if kind == "LoadBalancer":  # addresses that are not for this zone
            spec["externalIPs"] = ["203.0.113.7"][: self.random.randint(0, 1)]
            status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}, {"hostname": "lb.test"}]}}
        self._add("Service", namespace, name, labels=labels, spec=spec, status=status)
        for i in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            self._add_slice(namespace, name, f"{name}-{i}", labels)
            if self.manifests[-1]["addressType"] == "FQDN":
                break

    def _add_port_names(self, ports: list[Manifest], service: str, namespace: str) -> None:
        for port in ports:
            if port.get("name"):
                protocol = (port.get("protocol") or "tcp").lower()
                self.names.append(f"_{port['name']}._{protocol}.{service}.{namespace}.svc")

    def _external_name(self, name: str, namespace: str) -> str:
        roll = self.random.random()
        if roll < 0.35:
            return self.random.choice(OUTSIDE).name.rstrip(".")
        if roll < 0.4:
            return self.random.choice(OUTSIDE).name.upper()
        if roll < 0.5:
            return self.random.choice(["192.0.2.9", "2001:db8::9", "::ffff:192.0.2.9"])
        if roll < 0.55:
            return f"{name}.{namespace}.svc.cluster.local"  # itself
        if roll < 0.58:
            return f"below.{name}.{namespace}.svc.cluster.local"
        if roll < 0.61:
            return f"nothing.{namespace}.svc.cluster.local."
        if roll < 0.66:
            return self.random.choice(["nothing.example.com.", "cluster.local", "com"])
        target = f"{self.random.choice(self.names)}.cluster.local"
        return target.title() if self.random.random() < 0.1 else target

    def _add_slice(self, namespace: str, service: str, name: str, labels: dict[str, str]) -> None:
        family = self.random.choice(["IPv4"] * 15 + ["IPv6"] * 4 + ["FQDN"] * 2)
        if family == "FQDN" and self.slices_of(namespace, service):
            family = "IPv4"  # which of two slices' hosts a CNAME is made of is left to a Go map
        many = self.random.random() < 0.08 and family != "FQDN"
        endpoints = [
            self._endpoint(family, namespace, service, j)
            for j in range(self.random.randint(20, 60) if many else self.random.randint(0, 5))
        ]
        for j, endpoint in enumerate(endpoints):
            dashed = endpoint["addresses"][0].replace(".", "-").replace(":", "-")
            for label in (endpoint.get("hostname"), dashed, f"{service}-{j}"):
                if label and self.random.random() < (0.1 if many else 0.7):
                    self.names.append(f"{label}.{service}.{namespace}.svc")
        if self.random.random() < 0.3:
            zone, word = self.random.choice(TOPOLOGY_ZONES), self.random.choice(["pin", "prefer"])
            self.names.append(f"{zone}.{word}._zone.{service}.{namespace}.svc")
        ports = self._ports(is_slice=True)
        self._add_port_names(ports, service, namespace)
        self._add(
            "EndpointSlice",
            namespace,
            name,
            labels={**labels, "kubernetes.io/service-name": service},
            addressType=family,
            ports=ports,
            endpoints=endpoints,
        )

    def _endpoint(self, family: str, namespace: str, service: str, j: int) -> Manifest:
        chance = self.random.random
        if family == "FQDN":
            return {"addresses": [self.random.choice(OUTSIDE).name.rstrip(".")]}
        endpoint: Manifest = {"addresses": [self._address(family == "IPv6")]}
        if chance() < 0.02 and self._local and family == "IPv4":
            endpoint["addresses"] = [self._local[0]]
        if chance() < 0.05:
            endpoint["addresses"].append(self._address(family == "IPv6"))
        if chance() < 0.4:
            endpoint["hostname"] = f"{'Pod' if chance() < 0.1 else 'pod'}-{j}"
        ready = self.random.choice([True, True, True, False, None])
        if ready is not None:
            endpoint["conditions"] = {
                "ready": ready, "serving": chance() < 0.8, "terminating": chance() < 0.2,
            }  # fmt: skip
        if chance() < 0.4:
            endpoint["zone"] = self.random.choice(TOPOLOGY_ZONES)
        if chance() < 0.5:
            target = f"{service}-{j}"
            if chance() < 0.2:  # 63 octets are kept, more are not
                target = target.ljust(self.random.randint(61, 66), "x")
            endpoint["targetRef"] = {"kind": "Pod", "name": target, "namespace": namespace}
        return endpoint

    def _add_import(self, namespace: str, name: str) -> None:
        """Add a ServiceImport, and what clusters it is imported from."""
        spec: Manifest = {"type": self.random.choice(["Headless", "Headless", "ClusterSetIP"])}
        spec["ports"] = [port for port in self._ports() if self.random.random() < 0.9]
        if spec["type"] == "ClusterSetIP" and self.random.random() < 0.9:
            spec["ips"] = [f"10.250.{self.random.randint(0, 9)}.{self.random.randint(1, 99)}"]
            if self.random.random() < 0.3:
                spec["ips"].append(f"fd01::{self.random.randint(1, 99)}")
        self.names.append(f"{name}.{namespace}.svc")
        self._add_port_names(spec["ports"], name, namespace)
        self._add("ServiceImport", namespace, name, labels={"team": "a"}, spec=spec)
        for i in range(self.random.choice([0, 1, 1, 2])):
            self._add_imported_slice(namespace, name, f"{name}-from-{i}")

    def _add_imported_slice(self, namespace: str, service: str, name: str) -> None:
        cluster = self.random.choice(["c1", "c2", "C3"])
        endpoints: list[Manifest] = []
        for i in range(self.random.randint(0, 4)):
            address = f"10.251.{self.random.randint(0, 9)}.{self.random.randint(1, 99)}"
            endpoints.append({"addresses": [address]})
            if self.random.random() < 0.4:
                endpoints[-1]["hostname"] = f"host-{i}"
            if self.random.random() < 0.2:
                endpoints[-1]["conditions"] = {"ready": False}
            label = endpoints[-1].get("hostname", address.replace(".", "-"))
            self.names += [
                f"{label}.{cluster}.{service}.{namespace}.svc", f"{label}.{service}.{namespace}.svc"
            ]  # fmt: skip
        labels = {IMPORT_NAME: service, "multicluster.kubernetes.io/source-cluster": cluster,
                  "app": self.random.choice("xyz")}  # fmt: skip
        ports = self._ports(is_slice=True)
        self._add_port_names(ports, service, namespace)
        self._add(
            "EndpointSlice", namespace, name, labels=labels, addressType="IPv4", ports=ports,
            endpoints=endpoints,
        )  # fmt: skip

    def _remake_slice(self, namespace: str, name: str, *, is_gone: bool) -> None:
        found = self._find("EndpointSlice", namespace, name)
        if found is None:  # its Service went before
            return
        labels = found["metadata"]["labels"]
        self._remove("EndpointSlice", namespace, name)
        if is_gone:
            return
        if "kubernetes.io/service-name" in labels:
            self._add_slice(namespace, labels["kubernetes.io/service-name"], name, labels)
        else:
            self._add_imported_slice(namespace, labels[IMPORT_NAME], name)

    def _add_pod(self, namespace: str, name: str) -> None:
        address = self._address(self.random.random() < 0.1)
        status = {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
        if self.random.random() < 0.2:
            status["phase"] = self.random.choice(["Succeeded", "Failed", "Pending"])
        elif self.random.random() < 0.1:
            status = {"phase": "Pending"}
        self._add("Pod", namespace, name, labels={"app": "x"}, status=status)
        if self.random.random() < 0.15:  # a known one keeps its record, a new one gets none
            self.manifests[-1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        dashed = address.replace(".", "-").replace(":", "-")
        self.names += [f"{dashed}.{namespace}.pod", f"x.{dashed}.{namespace}.pod"]

    # ---- configuration ------------------------------------------------------------------------

    def _options(self) -> tuple[list[str], list[str]]:
        """Return the zones and the options of the `kubernetes` directive."""
        roll, choice = self.random.random, self.random.choice
        zones = ["cluster.local"]
        if roll() < 0.7:
            zones += choice(
                [["in-addr.arpa", "ip6.arpa"], ["10.0.0.0/8"], ["10.0.0.0/15", "fd00::/8"],
                 ["10.1.0.0/23", "fd00::/18"]]
            )  # fmt: skip
        if roll() < 0.15:
            zones.append(choice(["second.example", "west.cluster.local"]))
        if roll() < 0.25:
            self.random.shuffle(zones)
        options = []
        if roll() < 0.7:
            options.append(f"pods {choice(['disabled', 'insecure', 'verified', 'verified'])}")
        if roll() < 0.5:
            options.append(f"ttl {choice([0, 1, 5, 30, 60, 3600])}")
        if roll() < 0.3:
            options.append("endpoint_pod_names")
        if roll() < 0.1:
            options.append("noendpoints")
        if roll() < 0.2:
            options.append("ignore empty_service")
        if roll() < 0.5:
            options.append(
                choice(["fallthrough", "fallthrough in-addr.arpa ip6.arpa", "fallthrough 10.0.0.0/8",
                        f"fallthrough {choice(self.namespaces)}.svc.cluster.local"])
            )  # fmt: skip
        if roll() < 0.15:
            options += [f"namespaces {name}" for name in self.random.sample(self.namespaces, 1)]
            options += ["namespaces NS1 nothing"][: self.random.randint(0, 1)]
        elif roll() < 0.15:
            options.append("namespace_labels team=a")
        if roll() < 0.12:
            options.append(f"labels {choice(['app=x', 'app notin (x)', 'app in (x, y)'])}")
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
        first = [f"cluster.local second.example {IMPORTED} arpa {{", *common, kubernetes, "}"]
        last = forward or ([] if self.has_errors else ["    errors"])
        return "\n".join([*first, ". {", *common, *last, "}", ""])
