"""The Helm chart: what its values render to, what it refuses, and what a real API server says to it.

The value sets are those under ``ci/`` of the chart, with the default and kubeadm's. Each is linted,
rendered, its Corefile compiled, and its objects given to a real API server (see ``controlplane``).
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane import ControlPlane, path_of

import clusterdns
from clusterdns.chain import registry
from clusterdns.cluster import settings
from clusterdns.config.compile import Configuration, compile_text

ROOT = Path(__file__).resolve().parents[2]
CHART, BASE = ROOT / "deploy" / "helm" / "clusterdns", ROOT / "deploy" / "base"
INSTALL = "go install helm.sh/helm/v3/cmd/helm@v3.19.2, or HELM=/path/to/helm"
# COREDNS_CHART: `helm pull coredns --repo https://coredns.github.io/helm --untar`, the directory.
SETS = {
    "default": None,
    "kubeadm": CHART / "values-kubeadm.yaml",
    **{path.stem.removesuffix("-values"): path for path in sorted(CHART.glob("ci/*-values.yaml"))},
}
CUSTOM_KINDS = {"ServiceMonitor"}  # no API server knows them without their definitions

Objects = dict[tuple[str, str], dict[str, Any]]


@cache
def helm_path() -> str:
    found = os.environ.get("HELM") or shutil.which("helm")
    if not found:
        pytest.skip(f"needs helm: {INSTALL}")
    return found


def helm(
    *arguments: str | Path, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [helm_path(), *map(str, arguments)]
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig or "/dev/null")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environ
    )


def flags(values: Path | None, *more: str) -> list[str | Path]:
    return [
        *(["-f", values] if values else []),
        *(flag for word in more for flag in ("--set", word)),
    ]


def render(values: Path | None = None, *more: str, release: str = "coredns") -> Objects:
    done = helm(
        "template", release, CHART, "-n", "kube-system",
        *flags(values, *more),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [item for item in yaml.safe_load_all(done.stdout) if item]
    objects = {(item["kind"], item["metadata"]["name"]): item for item in found}
    assert len(found) == len(objects)
    return objects


@cache
def rendered(name: str) -> Objects:
    return render(SETS[name])


def refusal(*more: str) -> str:
    done = helm("template", "coredns", CHART, *flags(None, *more))
    assert done.returncode != 0, done.stdout
    return done.stderr


def only(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [item for (its_kind, _), item in objects.items() if its_kind == kind]
    return found


def server(objects: Objects) -> dict[str, Any]:
    """Return the Deployment of the server, not that of the autoscaler."""
    (found,) = [
        item
        for (kind, name), item in objects.items()
        if kind == "Deployment" and not name.endswith("-autoscaler")
    ]
    return found


def corefile(objects: Objects) -> str:
    return next(
        item["data"]["Corefile"]
        for (kind, _), item in objects.items()
        if kind == "ConfigMap" and "Corefile" in item["data"]
    )


# ---- the chart itself


@pytest.mark.parametrize("name", SETS)
def test_lint(name):
    done = helm("lint", "--strict", CHART, *flags(SETS[name]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_is_of_this_version_and_knows_its_plugins():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert clusterdns.__version__ == chart["appVersion"]
    known = (CHART / "plugins.txt").read_text().split()
    assert sorted(registry.available()) == sorted(known), (
        "clusterdns -plugins | sed -n 's/^  dns\\.//p' > deploy/helm/clusterdns/plugins.txt"
    )


# ---- the Corefile


def compiled(objects: Objects, place: Path, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """Compile the Corefile of rendered objects as if in its Pod; fails on warnings."""
    (place / "token").write_text("token")
    monkeypatch.setattr(settings, "_SERVICE_ACCOUNT", place)
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for word, value in environ.items():
        monkeypatch.setenv(word, value)
    container = server(objects)["spec"]["template"]["spec"]["containers"][0]
    environ |= {item["name"]: item.get("value", "") for item in container.get("env", ())}
    (volume,) = [
        item["configMap"]
        for item in server(objects)["spec"]["template"]["spec"]["volumes"]
        if item["name"] == "config-volume"
    ]
    for item in volume["items"]:  # what the kubelet mounts at /etc/coredns
        text = objects["ConfigMap", volume["name"]]["data"][item["key"]]
        (place / item["path"]).write_text(text.replace("/etc/coredns", str(place)))
    warnings: list[str] = []
    text = (place / "Corefile").read_text()
    made = compile_text(text, "Corefile", port=53, environ=environ, warn=warnings.append)
    assert not warnings
    return made


SERVED = {
    "default": [".:53"],
    "familiar": [".:53"],
    "kubeadm": [".:53"],
    "beside": ["lab.example.:1053", "1.10.in-addr.arpa.:1053", ".:1053"],
    "everything": [
        "cluster.local.:53",
        *(f"{octet}.10.in-addr.arpa.:53" for octet in range(96, 112)),
        "corp.example.:53",
    ],
    "encrypted": [".:53", "tls://.:853", "https://.:443"],
    "load-balancer": [".:53"],
}


@pytest.mark.parametrize("name", SERVED)
def test_the_corefile_serves(name, tmp_path, monkeypatch):
    assert SERVED[name] == compiled(rendered(name), tmp_path, monkeypatch).zones


@pytest.mark.parametrize("name", [name for name in SETS if name not in SERVED])
def test_the_other_sets_have_the_default_corefile_or_none(name):
    texts = [
        item["data"]["Corefile"]
        for item in rendered(name).values()
        if "Corefile" in item.get("data", {})
    ]
    assert texts == (
        [] if name in ("own-config", "scale-only") else [corefile(rendered("default"))]
    )


def test_the_default_corefile_is_kubeadms():
    kubeadm = yaml.safe_load((BASE / "configmap.yaml").read_text())["data"]["Corefile"]
    assert kubeadm == corefile(rendered("default"))
    assert kubeadm == corefile(rendered("kubeadm"))


def test_the_corefile_of_coredns_own_chart():
    expected = """\
.:53 {
    errors
    health {
       lameduck 10s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus 0.0.0.0:9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
"""
    assert expected == corefile(rendered("familiar"))


def test_large_numbers_stay_as_written():
    """Helm reads numbers as floats, and `cache 1e+06` would be the cache of a zone of that name."""
    assert "    cache 1000000\n" in corefile(rendered("everything"))


# ---- the objects


def test_kubeadms_objects_are_those_of_the_base():
    """values-kubeadm.yaml says in values what deploy/base says in objects; labels may be more."""
    objects, allowed = rendered("kubeadm"), {"Deployment": kubeadm_deployment}
    for path in sorted(BASE.glob("*.yaml")):
        for expected in yaml.safe_load_all(path.read_text()):
            if expected is None or expected["kind"] == "Kustomization":
                continue
            found = copy.deepcopy(objects[expected["kind"], expected["metadata"]["name"]])
            for word in ("labels", "annotations"):
                least = expected["metadata"].pop(word, {})
                least.pop("kubernetes.io/bootstrapping", None)  # says: the API server made it
                assert least.items() <= found["metadata"].pop(word, {}).items()
            allowed.get(expected["kind"], lambda expected, found: None)(expected, found)
            if expected["kind"] == "Service":
                assert found["spec"].pop("type") == "ClusterIP"
            assert expected == found


def kubeadm_deployment(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Take out what a Deployment of Helm has beside kubeadm's, and what is said in two ways."""
    template = found["spec"]["template"]
    assert set(template["metadata"].pop("annotations")) == {
        "checksum/config",
        "helm.sh/resource-policy",
    }
    assert template["metadata"]["labels"].pop("app.kubernetes.io/instance") == "coredns"
    assert template["metadata"]["labels"].pop("app.kubernetes.io/name") == "coredns"
    ours, theirs = template["spec"], expected["spec"]["template"]["spec"]
    assert ours["containers"][0].pop("image") == f"clusterdns:{clusterdns.__version__}"
    theirs["containers"][0].pop("image")
    assert ours.pop("terminationGracePeriodSeconds") == 30  # the API server's default, as the rest
    assert found["spec"]["strategy"]["rollingUpdate"].pop("maxSurge") == "25%"
    ours["containers"][0]["livenessProbe"].pop("periodSeconds")
    readiness = ours["containers"][0]["readinessProbe"]
    expected_probe = theirs["containers"][0]["readinessProbe"]
    defaults = {"initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 1,
                "successThreshold": 1, "failureThreshold": 3}  # fmt: skip
    assert {**defaults, **expected_probe} == readiness
    readiness.clear(), expected_probe.clear()


@pytest.mark.parametrize("name", SETS)
def test_whatever_selects_pods_selects_them(name):
    objects = rendered(name)
    for item in objects.values():
        if item["kind"] == "Deployment":
            labels = item["spec"]["template"]["metadata"]["labels"]
            assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
    if ("Deployment", "coredns-autoscaler") in objects:
        theirs = objects["Deployment", "coredns-autoscaler"]["spec"]["template"]["metadata"][
            "labels"
        ]
    else:
        theirs = {}
    if name == "scale-only":
        return
    labels = server(objects)["spec"]["template"]["metadata"]["labels"]
    for item in objects.values():
        if item["kind"] == "Service":
            selector = item["spec"]["selector"]
            assert selector and selector.items() <= labels.items()
            assert not selector.items() <= theirs.items()
        if item["kind"] == "PodDisruptionBudget":
            assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
        if item["kind"] == "NetworkPolicy":
            selector = item["spec"]["podSelector"]["matchLabels"]
            assert selector and selector.items() <= labels.items()


@pytest.mark.parametrize("name", SETS)
def test_what_is_referred_to_is_there(name):
    objects = rendered(name)
    for item in objects.values():
        for subject in item.get("subjects", ()):
            made = ("ServiceAccount", subject["name"]) in objects
            assert made or subject["name"] == "default"
            assert subject["namespace"] == "kube-system"
        if "roleRef" in item:
            assert (item["roleRef"]["kind"], item["roleRef"]["name"]) in objects
    if name == "scale-only":
        return
    spec = server(objects)["spec"]["template"]["spec"]
    container = spec["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert len(ports) == len(container["ports"])
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    for (kind, _), item in objects.items():
        if kind == "Service":
            for port in item["spec"]["ports"]:
                assert port["targetPort"] in ports.values()


def test_only_the_server_has_its_label():
    """`kubeadm upgrade` fails when two Deployments have the label k8s-app=kube-dns."""
    labels = [
        item["metadata"]["labels"]["k8s-app"]
        for item in rendered("autoscaler").values()
        if item["kind"] == "Deployment"
    ]
    assert ["coredns", "coredns-autoscaler"] == sorted(labels)


def test_a_server_beside_the_clusters():
    objects = rendered("beside")
    ports = {"port": 53, "nodePort": 30053, "targetPort": 1053}
    assert [
        {"name": "udp-1053", "protocol": "UDP", **ports},
        {"name": "tcp-1053", "protocol": "TCP", **ports},
    ] == only(objects, "Service")["spec"]["ports"]
    pod = server(objects)["spec"]["template"]
    assert {"app.kubernetes.io/instance": "coredns", "app.kubernetes.io/name": "coredns"} == pod[
        "metadata"
    ]["labels"]
    assert "dnsPolicy" not in pod["spec"]
    container = pod["spec"]["containers"][0]
    assert {"path": "/health", "port": 8090} == container["livenessProbe"]["httpGet"]
    assert {"path": "/ready", "port": 8191} == container["readinessProbe"]["httpGet"]
    assert "a quote, \\; and {{ no template }}" in only(objects, "ConfigMap")["data"]["lab.db"]


def test_one_protocol_for_a_load_balancer():
    spec = only(rendered("load-balancer"), "Service")["spec"]
    assert [{"name": "udp-53", "port": 53, "protocol": "UDP", "targetPort": 53}] == spec["ports"]
    assert ("LoadBalancer", "Local") == (spec["type"], spec["externalTrafficPolicy"])


def test_encrypted_transports_are_tcp():
    ports = only(rendered("encrypted"), "Service")["spec"]["ports"]
    assert {"udp-53", "tcp-53", "tcp-853", "tcp-443"} == {port["name"] for port in ports}


def test_who_scales_sets_the_replicas():
    assert 2 == server(rendered("default"))["spec"]["replicas"]
    for name in ("hpa", "autoscaler"):
        assert "replicas" not in server(rendered(name))["spec"]
    assert (
        "coredns"
        == only(rendered("hpa"), "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    )
    linear = json.loads(rendered("autoscaler")["ConfigMap", "coredns-autoscaler"]["data"]["linear"])
    assert {
        "coresPerReplica": 256, "nodesPerReplica": 16, "min": 2, "max": 20,
        "preventSinglePointFailure": True, "includeUnschedulableNodes": True,
    } == linear  # fmt: skip
    command = only(rendered("scale-only"), "Deployment")["spec"]["template"]["spec"]["containers"][
        0
    ]
    assert "--target=Deployment/coredns" in command["command"]


def test_what_is_scraped():
    objects = rendered("metrics")
    monitor, service = only(objects, "ServiceMonitor"), objects["Service", "coredns-metrics"]
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    assert not selector.items() <= objects["Service", "coredns"]["metadata"]["labels"].items()
    assert ["kube-system"] == monitor["spec"]["namespaceSelector"]["matchNames"]
    assert "monitoring" == monitor["metadata"]["namespace"]
    assert "prometheus" == monitor["metadata"]["labels"]["release"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert ("metrics", "30s", "10s", True) == tuple(
        endpoint[word] for word in ("port", "interval", "scrapeTimeout", "honorLabels")
    )
    assert 9153 == service["spec"]["ports"][0]["targetPort"]


def test_there_is_no_network_policy_unless_asked_for():
    assert "NetworkPolicy" not in {kind for kind, _ in rendered("default")}
    assert "NetworkPolicy" not in {
        kind
        for kind, _ in render(
            None, "networkPolicy.enabled=true", "deployment.enabled=false",
            "deployment.name=x", "hpa.enabled=true",
        )
    }  # fmt: skip


def test_the_network_policy_is_that_of_the_component():
    place = ROOT / "deploy" / "components" / "network-policy" / "networkpolicy.yaml"
    found = only(render(SETS["kubeadm"], "networkPolicy.enabled=true"), "NetworkPolicy")
    assert yaml.safe_load(place.read_text())["spec"] == found["spec"]
    assert "kube-system" == found["metadata"]["namespace"]


def test_the_network_policy_lets_in_whom_its_values_name():
    anybody, scrapers, checkers = only(rendered("network-policy"), "NetworkPolicy")["spec"][
        "ingress"
    ]
    assert {"ports"} == set(anybody)
    names = [each["namespaceSelector"]["matchLabels"] for each in scrapers["from"]]
    assert ["monitoring", "observability"] == [
        each["kubernetes.io/metadata.name"] for each in names
    ]
    assert [9153] == [each["port"] for each in scrapers["ports"]]
    cidrs = [each["ipBlock"]["cidr"] for each in checkers["from"]]
    assert ["192.0.2.0/24", "2001:db8::/64"] == cidrs
    assert [8080, 8181] == [each["port"] for each in checkers["ports"]]


def test_no_source_in_the_network_policy_is_nobody_and_not_everybody():
    nobody = ("networkPolicy.enabled=true", "networkPolicy.scraperNamespaces=null")
    (anybody,) = only(render(None, *nobody), "NetworkPolicy")["spec"]["ingress"]
    assert [(53, "UDP"), (53, "TCP")] == [
        (each["port"], each["protocol"]) for each in anybody["ports"]
    ]


def test_the_network_policy_follows_the_ports_of_the_corefile():
    checks = ("networkPolicy.enabled=true", "networkPolicy.healthCheckCIDRs[0]=192.0.2.0/24")
    policy = only(render(SETS["beside"], *checks), "NetworkPolicy")["spec"]
    assert [[1053, 1053], [9153], [8090, 8191]] == [
        [each["port"] for each in rule["ports"]] for rule in policy["ingress"]
    ]
    policy = only(render(SETS["encrypted"], *checks), "NetworkPolicy")["spec"]
    assert {53, 853, 443} == {each["port"] for each in policy["ingress"][0]["ports"]}


def test_the_page_is_off_unless_asked_for_and_then_at_loopback_only(tmp_path, monkeypatch):
    shown = ("status.enabled=true", "networkPolicy.enabled=true")
    with_page, without = render(None, *shown), render(None, shown[1])
    added = {*corefile(with_page).splitlines()} - {*corefile(without).splitlines()}
    assert {"    status 127.0.0.1:9154"} == added
    assert "status" not in corefile(without)
    assert compiled(with_page, tmp_path, monkeypatch)
    assert "status 127.0.0.1:8000\n" in corefile(render(None, *shown, "status.port=8000"))
    assert only(without, "NetworkPolicy") == only(with_page, "NetworkPolicy")
    assert (
        server(without)["spec"]["template"]["spec"] == server(with_page)["spec"]["template"]["spec"]
    )
    back = ("image.repository=registry.k8s.io/coredns/coredns", "image.tag=v1.14.2")
    assert "status" not in corefile(render(None, *shown, *back))  # CoreDNS does not know it
    assert "a server has the plugin status already" in refusal(
        *shown, "servers[0].plugins[0].name=status", *KEPT
    )


def test_a_changed_corefile_rolls_the_pods():
    def checksum(*more: str) -> str:
        pod = server(render(None, *more))["spec"]["template"]
        return pod["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum("replicaCount=3")
    assert checksum() != checksum("servers[0].plugins[0].name=log", *KEPT)


KEPT = ("livenessProbe.enabled=false", "readinessProbe.enabled=false")


# So that all templates speak; and what must speak less for a value to be heard.
SWITCHES = (
    "autoscaler.enabled=true", "prometheus.service.enabled=true", "prometheus.monitor.enabled=true",
    "podDisruptionBudget.minAvailable=1", "networkPolicy.enabled=true", "status.enabled=true",
)  # fmt: skip
QUIETER = {
    **dict.fromkeys(["replicaCount", "deployment.enabled", "hpa.enabled", "autoscaler.enabled", "prometheus.service.enabled", "networkPolicy.enabled", "status.enabled"], ()),
    "prometheus.monitor.enabled": ("prometheus.service.enabled=true",),
    **dict.fromkeys(["hpa.minReplicas", "hpa.maxReplicas"], ("hpa.enabled=true",)),
}  # fmt: skip
# Values that not just any other word or number may take the place of.
CHOSEN = {
    **dict.fromkeys(["image.digest", "autoscaler.image.digest"], "sha256:" + 64 * "0"),
    **dict.fromkeys(["image.pullPolicy", "autoscaler.image.pullPolicy"], "Always"),
    "rollingUpdate.maxSurge": "50%",
    "serviceType": "NodePort",
    "deployment.dnsPolicy": "ClusterFirst",
}
FIXED = {
    "rbac.pspEnable",
    "livenessProbe.successThreshold",
    "autoscaler.livenessProbe.successThreshold",
}


def test_every_default_has_an_effect():
    """Change each scalar of values.yaml; one that changes nothing is not used, whatever it says."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    del defaults["servers"]  # the Corefile has tests of its own
    before: dict[tuple[str, ...], Objects] = {}
    for path, value in scalars(defaults):
        if path in FIXED:
            continue
        beside = QUIETER.get(path, SWITCHES)
        if beside not in before:
            before[beside] = render(None, *beside)
        changed = f"{path}={CHOSEN.get(path, another(value))}"
        assert before[beside] != render(None, *beside, changed), f"{changed} changes nothing"


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("default", "familiar")])
def test_every_value_of_a_set_has_an_effect(name, tmp_path):
    """Leave out each word of it: what is rendered, or whether anything is, must differ."""
    values, part = yaml.safe_load(SETS[name].read_text()), tmp_path / "part.yaml"

    def template() -> tuple[int, str]:
        part.write_text(yaml.safe_dump(values))
        done = helm("template", "some", CHART, "-n", "kube-system", "-f", part)
        return done.returncode, done.stdout

    whole = template()
    for path, parent, word in words(values):
        kept = parent.pop(word)
        assert whole != template(), f"{path} changes nothing"
        parent[word] = kept
    assert whole == template()


def words(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    for word, item in list(value.items()):
        yield f"{path}{word}", value, word
        if isinstance(item, dict):
            yield from words(item, f"{path}{word}.")


def another(value: Any) -> str:
    match value:
        case bool():
            return str(not value).lower()
        case int():
            return str(value + 1)
    return "changed"


def scalars(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    match value:
        case dict():
            for word, item in value.items():
                yield from scalars(item, ".".join(filter(None, [path, word.replace(".", "\\.")])))
        case list():
            for i, item in enumerate(value):
                yield from scalars(item, f"{path}[{i}]")
        case _:
            yield path, value


# ---- what is refused


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("replicaCout=3", "additional properties 'replicaCout' not allowed"),
        ("image.digst=x", "at '/image': additional properties 'digst' not allowed"),
        ("service.clusterIp=10.0.0.1", "at '/service': additional properties 'clusterIp'"),
        ("servers[0].plugins[0].parameter=x", "additional properties 'parameter' not allowed"),
        ("deployment.enable=false", "at '/deployment': additional properties 'enable'"),
        ("resources.limit.cpu=1", "at '/resources': additional properties 'limit'"),
        ("replicaCount=two", "at '/replicaCount': got string, want integer"),
        ("serviceType=ExternalName", "at '/serviceType': value must be one of"),
        ("livenessProbe.successThreshold=2", "at '/livenessProbe/successThreshold'"),
        ("servers[0].port=65536", "at '/servers/0/port'"),
        ("zoneFiles[0].filename=a/b", "at '/zoneFiles/0/filename'"),
        (
            "networkPolicy.scraperNamespaces[0]=Not_a_name",
            "at '/networkPolicy/scraperNamespaces/0'",
        ),
        ("networkPolicy.healthCheckCIDRs[0]=192.0.2.1", "at '/networkPolicy/healthCheckCIDRs/0'"),
        ("scaledObject.enabled=true", "additional properties 'scaledObject' not allowed"),
    ],
)
def test_the_schema_names_a_mistake(value, reason):
    assert reason in refusal(value)


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        (["servers[0].plugins[0].name=route53"],
         ['servers[0].plugins[0].name: clusterdns has no plugin "route53"; it has ',
          "livenessProbe.enabled: no server has the plugin health",
          "readinessProbe.enabled: no server has the plugin ready"]),
        (["servers[0].plugins[0].name=errors", "servers[0].zones[0].scheme=grpc://", *KEPT],
         ["servers[0].zones[0].scheme: grpc:// is not served by clusterdns, only dns://, tls:// and https://"]),
        (["servers[0].plugins[0].name=errors", "prometheus.service.enabled=true", *KEPT],
         ["prometheus: no server has the plugin prometheus"]),
        (["prometheus.monitor.enabled=true"], ["prometheus.monitor.enabled: there is nothing to scrape"]),
        (["hpa.enabled=true", "autoscaler.enabled=true"], ["hpa.enabled, autoscaler.enabled: both"]),
        (["hpa.enabled=true", "deployment.enabled=false"], ["deployment.name: "]),
        (["deployment.dnsPolicy=None"], ["deployment.dnsConfig: deployment.dnsPolicy None needs it"]),
        (["podDisruptionBudget.minAvailable=1", "podDisruptionBudget.maxUnavailable=1"],
         ["podDisruptionBudget: minAvailable and maxUnavailable exclude one another"]),
        (["rbac.pspEnable=true"], ["rbac.pspEnable: Kubernetes 1.25 removed PodSecurityPolicy"]),
        (["zoneFiles[0].filename=Corefile", "zoneFiles[0].contents=x"], ["zoneFiles[0].filename: Corefile"]),
        (["image.repository=registry.k8s.io/coredns/coredns"],
         ["image.repository: registry.k8s.io/coredns/coredns is CoreDNS's image"]),
        (["servers=null"], ["servers: there is none"]),
    ],
)  # fmt: skip
def test_what_the_schema_cannot_say_is_refused_too(values, reasons):
    said = refusal(*values)
    for reason in reasons:
        assert reason in said


def test_an_empty_map_or_list_may_be_left_empty():
    """`podAnnotations:` without a value, as values files have it, takes the default away."""
    words = ("podAnnotations", "podLabels", "customLabels", "customAnnotations", "affinity",
             "tolerations", "resources", "extraConfig", "zoneFiles", "podSecurityContext",
             "securityContext", "topologySpreadConstraints", "env")  # fmt: skip
    spec = server(render(None, *(f"{word}=null" for word in words)))["spec"]["template"]["spec"]
    assert "securityContext" not in spec
    assert "resources" not in spec["containers"][0]


# ---- what the API server says


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[ControlPlane]:
    helm_path()
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


def dry_run(plane: ControlPlane, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what the API server would make of an object. Raises AssertionError with its reason."""
    path = f"{path_of(manifest)}/{manifest['metadata']['name']}"
    query = "?fieldManager=helm&force=true&dryRun=All&fieldValidation=Strict"
    try:
        return plane.request("PATCH", path + query, manifest, kind="application/apply-patch+yaml")
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{path}: {error.read().decode()}") from None


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SETS)
def test_a_real_api_server_takes_it(name, plane):
    for (kind, _), manifest in rendered(name).items():
        if kind not in CUSTOM_KINDS:
            made = dry_run(plane, manifest)
            assert kind == made["kind"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("values", "port", "asked"),
    [
        (None, 53, "+tcp @127.0.0.1 -p 1053 kubernetes.default.svc.cluster.local"),
        # no cluster is served: a zone of the first server, not the one of addresses
        ("beside", 53, "+tcp @127.0.0.1 -p 1053 lab.example SOA"),
        ("encrypted", 53, "+tcp @127.0.0.1 -p 1053 kubernetes.default.svc.cluster.local"),
        ("everything", 53, "+tcp @127.0.0.1 -p 1053 NAME"),  # its zone is a variable
        ("own-config", 53, "+tcp @127.0.0.1 -p 1053 NAME"),
    ],
)
def test_the_notes_ask_for_what_is_served(values, port, asked, plane):
    config = plane.place / "admin.kubeconfig"
    install = ["install", "coredns", CHART, "-n", "dns", "--dry-run=client"]
    done = helm(*install, *flags(SETS[values or "default"]), kubeconfig=config)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert f" 1053:{port} &" in notes
    assert asked in notes


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], ["behind Service coredns in dns.", "Pods do not ask it yet"]),
        (["service.clusterIP=10.96.0.99"], ["Kubelets must hand out 10.96.0.99 (clusterDNS)"]),
        (["replicaCount=1"], ["One replica: names do not resolve while its Pod moves."]),
        (["deployment.enabled=false,deployment.name=x,hpa.enabled=true"],
         ["no server of its own, only what scales the Deployment x."]),
    ],
)  # fmt: skip
def test_the_notes(values, said, plane):
    config = plane.place / "admin.kubeconfig"
    install = ["install", "coredns", CHART, "-n", "dns", "--dry-run=client"]
    done = helm(*install, *flags(None, *values), kubeconfig=config)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    for line in said:
        assert line in notes


def get(plane: ControlPlane, kind: str, name: str) -> dict[str, Any]:
    version = "apps/v1" if kind == "Deployment" else "v1"
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"namespace": "kube-system"}}
    return plane.request("GET", f"{path_of(manifest)}/{name}")


def image(plane: ControlPlane) -> str:
    spec = get(plane, "Deployment", "coredns")["spec"]["template"]["spec"]
    return spec["containers"][0]["image"]


@pytest.mark.timeout(240)
def test_kubeadms_coredns_is_taken_over_and_given_back(plane):
    """Install over what kubeadm made; the objects stay the same ones, and the way back is a value."""
    before = {}
    for path in sorted(BASE.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest is None or manifest["kind"] == "Kustomization":
                continue
            if manifest["kind"] == "Deployment":
                (container,) = manifest["spec"]["template"]["spec"]["containers"]
                container["image"] = "registry.k8s.io/coredns/coredns:v1.13.1"
            made = plane.apply(manifest)
            before[manifest["kind"], manifest["metadata"]["name"]] = made["metadata"]["uid"]
    config = plane.place / "admin.kubeconfig"
    kubeadm = ["coredns", CHART, "-n", "kube-system", "-f", SETS["kubeadm"]]
    done = helm("install", *kubeadm, kubeconfig=config)
    assert "exists and cannot be imported" in done.stderr  # not by accident
    done = helm("install", *kubeadm, "--take-ownership", kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert "Kubelets must hand out 10.96.0.10" in done.stdout
    assert f"clusterdns:{clusterdns.__version__}" == image(plane)
    for kind in ("Deployment", "ConfigMap", "ServiceAccount"):
        assert before[kind, "coredns"] == get(plane, kind, "coredns")["metadata"]["uid"]
    service = get(plane, "Service", "kube-dns")
    assert before["Service", "kube-dns"] == service["metadata"]["uid"]
    assert [
        ("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("metrics", "TCP", 9153)
    ] == [(port["name"], port["protocol"], port["port"]) for port in service["spec"]["ports"]]  # fmt: skip
    back = [
        "--set",
        "image.repository=registry.k8s.io/coredns/coredns",
        "--set",
        "image.tag=v1.13.1",
    ]
    done = helm("upgrade", *kubeadm, *back, kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert "registry.k8s.io/coredns/coredns:v1.13.1" == image(plane)
    done = helm("rollback", "coredns", "1", "-n", "kube-system", kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert f"clusterdns:{clusterdns.__version__}" == image(plane)
    done = helm("uninstall", "coredns", "-n", "kube-system", kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert before["Deployment", "coredns"] == get(plane, "Deployment", "coredns")["metadata"]["uid"]
    assert before["Service", "kube-dns"] == get(plane, "Service", "kube-dns")["metadata"]["uid"]


@pytest.mark.given("COREDNS_CHART")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("release", ["coredns", "dns"])
def test_a_release_of_coredns_own_chart_is_upgraded(release, plane):
    """With the same values; every object is the same one, and `helm rollback` goes back."""
    chart = os.environ["COREDNS_CHART"]
    config, where = plane.place / "admin.kubeconfig", f"upgrade-{release}"
    common = ["-n", where, "--set", "rbac.create=true,serviceAccount.create=true"]
    done = helm("install", release, chart, *common, "--create-namespace", kubeconfig=config)
    assert done.returncode == 0, done.stderr

    def uids() -> dict[str, str]:
        found = {}
        for path in (f"/apis/apps/v1/namespaces/{where}/deployments", *(
            f"/api/v1/namespaces/{where}/{word}" for word in ("services", "configmaps", "serviceaccounts")
        )):  # fmt: skip
            for item in plane.request("GET", path)["items"]:
                found[f"{path}/{item['metadata']['name']}"] = item["metadata"]["uid"]
        return found

    theirs = uids()
    done = helm("upgrade", release, CHART, *common, kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert theirs == uids()
    assert "Back to what ran before: helm -n" in done.stdout
    done = helm("rollback", release, "1", "-n", where, kubeconfig=config)
    assert done.returncode == 0, done.stderr
    assert theirs == uids()
    helm("uninstall", release, "-n", where, kubeconfig=config)


@pytest.mark.given("COREDNS_CHART")
def test_the_values_of_coredns_own_chart_are_all_known():
    chart = os.environ["COREDNS_CHART"]
    objects = render(Path(chart) / "values.yaml", "image.repository=clusterdns")
    assert ".:53" == corefile(objects).split(" {")[0]
