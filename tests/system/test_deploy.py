"""The manifests of deploy/: what they say, that a real API server takes them, that they are replacements.

``KUBEADM`` has what kubeadm installs for CoreDNS (kubernetes: cmd/kubeadm/app/phases/addons/dns), and
deploy/base must be that, field by field. The alerts and the dashboard are in test_monitoring.py.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import controlplane
import deployed
import pytest
import yaml
from controlplane import ControlPlane, path_of
from deployed import BASE, CLUSTER_IP, DEPLOY, KUBEADM, build, corefiles, named

from clusterdns.cluster import settings
from clusterdns.cluster.published import DNS_ENDPOINTS, GATEWAYS, GROUPS, INGRESSES, ROUTES
from clusterdns.config import kubedns
from clusterdns.config.compile import Configuration, compile_text

OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
COREDNS_IMAGE = "registry.k8s.io/coredns/coredns:v1.14.2"


def test_the_base_is_what_kubeadm_installs():
    found = named(deployed.load(*BASE))
    deployment = found["Deployment", "coredns"]["spec"]["template"]["spec"]
    assert deployment.pop("securityContext") == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
        # safe since Kubernetes 1.22, and of no harm where the file capability does it
        "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
    }
    assert deployment["containers"][0].pop("image") == "clusterdns"
    # every 10 s otherwise, and a restart loses queries: tests/node/restarts.sh
    assert deployment["containers"][0]["readinessProbe"].pop("periodSeconds") == 1
    for key, expected in named(KUBEADM).items():
        assert expected == found.pop(key), key
    assert not found


KINDS = ["ClusterRole", "ClusterRoleBinding", "ConfigMap", "Deployment", "ServiceAccount"]
EXPECTED_KINDS = {
    "aks": KINDS,
    "autoscaling": [
        *KINDS, *KINDS, "PodDisruptionBudget", "Role", "RoleBinding", "Service",
    ],
    "dual-stack": [*KINDS, "Service"],
    "eks": [*KINDS, "PodDisruptionBudget"],
    "gke": KINDS,
    "k3s": [*KINDS, "Service"],
    "nodelocal": ["ConfigMap", "DaemonSet", "Service", "Service", "ServiceAccount"],
    "replicas": [*KINDS, "PodDisruptionBudget", "Service"],
}  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_without_root_and_behind_seccomp(overlay):
    """Only the init container of NodeLocal, which adds an address to the node, is root."""
    for manifest in build(overlay):
        if manifest["kind"] not in ("Deployment", "DaemonSet"):
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        for container in pod["containers"]:
            found = {**pod["securityContext"], **container["securityContext"]}
            assert found["runAsNonRoot"]
            assert found["readOnlyRootFilesystem"]
            assert found["allowPrivilegeEscalation"] is False
            assert ["ALL"] == found["capabilities"]["drop"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_build(overlay):
    found = build(overlay)
    assert sorted(EXPECTED_KINDS[overlay]) == sorted(manifest["kind"] for manifest in found)
    for manifest in found:
        cluster_wide = manifest["kind"].startswith("ClusterRole")
        assert cluster_wide or manifest["metadata"]["namespace"] == "kube-system"


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"nodelocal"}))
def test_the_services_selector_takes_the_pods_of_every_overlay(overlay):
    service = named(KUBEADM)["Service", "kube-dns"]
    found = named(build(overlay))
    name = "clusterdns" if overlay in ("aks", "gke") else "coredns"
    spec = found["Deployment", name]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert spec["selector"]["matchLabels"].items() <= labels.items()


def test_the_pods_of_nodelocal_are_not_behind_the_service_they_ask():
    found = named(build("nodelocal"))
    labels = found["DaemonSet", "node-local-dns"]["spec"]["template"]["metadata"]["labels"]
    upstream = found["Service", "kube-dns-upstream"]["spec"]["selector"]
    assert not upstream.items() <= labels.items()


def test_what_overlays_change():
    assert named(build("k3s"))["Service", "kube-dns"]["spec"]["clusterIP"] == "10.43.0.10"
    dual = named(build("dual-stack"))["Service", "kube-dns"]["spec"]
    assert dual["clusterIPs"] == [CLUSTER_IP, "fd00:10:96::a"]
    assert named(build("replicas"))["Deployment", "coredns"]["spec"]["replicas"] == 3
    assert "replicas" not in named(build("autoscaling"))["Deployment", "coredns"]["spec"]
    eks = named(build("eks"))["Deployment", "coredns"]["spec"]["selector"]["matchLabels"]
    assert eks == {"k8s-app": "kube-dns", "eks.amazonaws.com/component": "coredns"}


@pytest.mark.parametrize("overlay", ["aks", "gke"])
def test_an_overlay_beside_another_server_shares_no_object_with_it(overlay):
    found = build(overlay)
    assert {"clusterdns"} == {manifest["metadata"]["name"] for manifest in found}
    objects = named(found)
    pod = objects["Deployment", "clusterdns"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "clusterdns"
    assert "clusterdns" in [volume["configMap"]["name"] for volume in pod["volumes"]]
    binding = objects["ClusterRoleBinding", "clusterdns"]
    assert binding["roleRef"]["name"] == binding["subjects"][0]["name"] == "clusterdns"


# ---- Corefiles


class Disk:
    """Files as in a Pod: the fragments given, below /etc/coredns/custom, and the machine's others."""

    def __init__(self, **fragments: str) -> None:
        self._texts = {
            f"/etc/coredns/custom/{name.replace('_', '.')}": text
            for name, text in fragments.items()
        }

    def glob(self, pattern: str) -> list[str]:
        return sorted(path for path in self._texts if fnmatch.fnmatch(path, pattern))

    def read(self, path: str) -> str:
        return self._texts[path]


@pytest.fixture
def in_a_pod(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(settings, "_SERVICE_ACCOUNT", tmp_path)
    for file in ("token", "ca.crt"):
        (tmp_path / file).write_text("as kubelet mounts it")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")


def compiled(text: str, **fragments: str) -> Configuration:
    settings = kubedns.read({}, zone="cluster.local", warn=pytest.fail)
    text = kubedns.translate(settings, zone="cluster.local", port=53, warn=pytest.fail, own=text)
    return compile_text(
        text,
        "/etc/coredns/Corefile",
        port=53,
        environ={"KUBE_DNS_UPSTREAM_SERVICE_HOST": "10.96.77.7"},
        warn=lambda _: None,
        files=Disk(**fragments),
    )


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS])
def test_corefiles_compile(overlay, in_a_pod):
    texts = corefiles(build(overlay))
    assert texts
    for text in texts:
        found = compiled(text)
        assert {53} == {endpoint.port for endpoint in found.routers}
        assert ".:53" in found.zones


@pytest.mark.parametrize("overlay", ["aks", "k3s"])
def test_fragments_of_coredns_custom_are_taken(overlay, in_a_pod):
    (text,) = corefiles(build(overlay))
    server = "corp.example:53 {\n    forward . 10.0.0.53\n}\n"
    found = compiled(text, log_override="log\n", corp_server=server)
    assert [".:53", "corp.example.:53"] == found.zones
    assert "log" in {plugin.name for plugin in found.views[0].plugins}


@pytest.mark.parametrize("overlay", ["aks", "k3s"])
def test_a_fragment_that_is_not_supported_is_left_out_with_file_and_line(overlay, in_a_pod):
    (text,) = corefiles(build(overlay))
    fragment = "log\nroute53 example.org.:Z1 {\n}\n"
    (refused,) = compiled(text, nodes_override=fragment).refused
    assert re.match(r"/etc/coredns/custom/nodes.override:2: .*route53", str(refused))


# ---- a real API server


class Refused(Exception):
    """The API server did not take an object: its status code, and what it says."""


class Plane(ControlPlane):
    """One whose Service addresses take in kubeadm's range and k3s's, and IPv6."""

    def _run(self, name: str, *arguments: str) -> None:
        ranges = "--service-cluster-ip-range=10.96.0.0/12"
        super()._run(
            name,
            *(
                "--service-cluster-ip-range=10.0.0.0/9,fd00:10:96::/112" if a == ranges else a
                for a in arguments
            ),
        )

    def dry_run(self, manifest: dict) -> dict:
        """Apply without effect. Fields that the API server does not know are an error."""
        path = f"{path_of(manifest)}/{manifest['metadata']['name']}"
        query = "dryRun=All&fieldManager=operator&force=true&fieldValidation=Strict"
        kind = "application/apply-patch+yaml"
        try:
            return self.request("PATCH", f"{path}?{query}", manifest, kind=kind)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, error.read().decode()) from None

    def get(self, manifest: dict) -> dict:
        return self.request("GET", f"{path_of(manifest)}/{manifest['metadata']['name']}")


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Iterator[Plane]:
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        cidrs = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR"}
        place = path_of({**cidrs, "metadata": {}})
        running._until(lambda: "'True'" in str(running.request("GET", place)["items"]), 20)
        yield running


@pytest.fixture
def kubeadm(plane) -> Iterator[dict[tuple[str, str], dict]]:
    """The cluster as kubeadm leaves it, with CoreDNS."""
    installed = named(KUBEADM)
    pod = installed["Deployment", "coredns"]["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = COREDNS_IMAGE
    for manifest in installed.values():
        plane.delete(manifest)
        plane.request("POST", f"{path_of(manifest)}?fieldManager=kubeadm", manifest)
    yield {key: plane.get(manifest) for key, manifest in installed.items()}
    for manifest in installed.values():
        plane.delete(manifest)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("overlay", ["base", *OVERLAYS])
def test_an_api_server_takes_it(overlay, plane):
    for manifest in build(overlay):
        taken = plane.dry_run(manifest)
        assert manifest["metadata"]["name"] == taken["metadata"]["name"]
        assert deployed.is_within(manifest, taken), (manifest, taken)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("overlay", ["base", "dual-stack", "replicas", "autoscaling", "gke", "aks"])
def test_an_api_server_takes_it_over_what_kubeadm_installed(overlay, plane, kubeadm):
    for manifest in build(overlay):
        assert deployed.is_within(manifest, plane.dry_run(manifest))


def test_fields_that_nobody_knows_are_noticed(plane):
    manifest = copy.deepcopy(named(build("base"))["Deployment", "coredns"])
    manifest["spec"]["template"]["spec"]["replica"] = 2
    with pytest.raises(Refused, match="replica"):
        plane.dry_run(manifest)


def test_on_eks_the_base_is_refused_and_the_overlay_taken(plane, kubeadm):
    deployment = copy.deepcopy(named(KUBEADM)["Deployment", "coredns"])
    plane.delete(deployment)
    more = {"eks.amazonaws.com/component": "coredns"}
    deployment["spec"]["selector"]["matchLabels"] |= more
    deployment["spec"]["template"]["metadata"]["labels"] |= more
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = COREDNS_IMAGE
    plane.request("POST", path_of(deployment), deployment)
    with pytest.raises(Refused, match="field is immutable"):
        plane.dry_run(named(build("base"))["Deployment", "coredns"])
    for manifest in build("eks"):
        plane.dry_run(manifest)


def kubectl(plane: Plane, *arguments: str) -> str:
    kubeconfig = plane.place / "admin.kubeconfig"
    done = subprocess.run(
        [controlplane.kubectl(), "--kubeconfig", str(kubeconfig), "-n", "kube-system", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_to_replace_coredns_and_to_go_back(plane, kubeadm):
    """What deploy/README.md tells to do; only the image changes hands, and comes back."""
    kubectl(plane, "apply", "-k", str(DEPLOY / "base"))
    for key, before in kubeadm.items():
        after = plane.get(before)
        assert before["metadata"]["uid"] == after["metadata"]["uid"], key
        if key[0] != "Deployment":
            assert deployed.content(before) == deployed.content(after), key
    deployment = plane.get(kubeadm["Deployment", "coredns"])
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "clusterdns"
    pod["containers"][0]["image"] = COREDNS_IMAGE
    pod["securityContext"] = {}
    pod["containers"][0]["readinessProbe"]["periodSeconds"] = 10
    assert kubeadm["Deployment", "coredns"]["spec"] == deployment["spec"]

    def was_seen() -> bool:
        status = plane.get(deployment).get("status", {})
        return status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]

    plane._until(was_seen, 20)
    kubectl(plane, "rollout", "undo", "deployment/coredns")
    back = plane.get(deployment)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert back == COREDNS_IMAGE


def test_autoscaling_leaves_the_replicas_to_the_autoscaler(plane, kubeadm):
    def replicas() -> int:
        return plane.get(kubeadm["Deployment", "coredns"])["spec"]["replicas"]

    overlay = str(DEPLOY / "overlays" / "autoscaling")
    kubectl(plane, "scale", "deployment/coredns", "--replicas=5")
    for _ in range(2):
        kubectl(plane, "apply", "-k", overlay)
        assert replicas() == 5
    kubectl(plane, "apply", "-k", str(DEPLOY / "base"))
    kubectl(plane, "apply", "-k", overlay)
    assert replicas() == 1  # what the overlay's head warns of
    for manifest in build("autoscaling"):
        if manifest["kind"] in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"):
            plane.apply(manifest)
    user = "kube-dns-autoscaler"
    plane._until(lambda: may(plane, user, "list", "", "nodes"), 10)  # roles take a moment
    assert may(plane, user, "get", "", "configmaps", name="kube-dns-autoscaler")
    assert may(plane, user, "update", "apps", "deployments", "scale", name="coredns")
    assert not may(plane, user, "update", "apps", "deployments", "scale", name="other")
    assert not may(plane, user, "get", "", "configmaps", name="coredns")
    assert not may(plane, user, "list", "", "secrets")


def may(
    plane: Plane, user: str, verb: str, group: str, resource: str, sub: str = "", *, name: str = ""
) -> bool:
    """Tell whether a service account of kube-system has a right there."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {
            "user": f"system:serviceaccount:kube-system:{user}",
            "resourceAttributes": {
                "namespace": "kube-system", "verb": verb, "group": group,
                "resource": resource, "subresource": sub, "name": name,
            },
        },
    }  # fmt: skip
    return plane.request("POST", path_of(review), review)["status"]["allowed"]


# ---- NodeLocal, in a network namespace that stands for a node


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare: apt install util-linux")
def test_nodelocal_answers_at_its_address_and_asks_the_cluster_by_tcp(tmp_path):
    script = Path(deployed.__file__).with_name("node.py")
    objects = named(build("nodelocal"))
    pod = objects["DaemonSet", "node-local-dns"]["spec"]["template"]["spec"]
    (tmp_path / "Corefile").write_text(objects["ConfigMap", "node-local-dns"]["data"]["Corefile"])
    (tmp_path / "interface.sh").write_text(pod["initContainers"][0]["command"][-1])
    (tmp_path / "kube-dns").mkdir()
    stub = json.dumps({"acme.local": ["10.96.77.7"]})
    (tmp_path / "kube-dns" / "stubDomains").write_text(stub)
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs the right to make network namespaces")
    assert done.returncode == 0, done.stderr
    assert {
        "web.uit.svc.cluster.local.": ["NOERROR", "10.96.1.1"],
        "nothing.uit.svc.cluster.local.": ["NXDOMAIN"],
        "www.acme.local.": ["NOERROR", "192.0.2.80"],
        "health": 200,
        "transport": "tcp",
    } == json.loads(done.stdout)


def test_every_manifest_is_in_a_kustomization():
    for place in (DEPLOY / "base", *(DEPLOY / "overlays" / name for name in OVERLAYS)):
        listed = yaml.safe_load((place / "kustomization.yaml").read_text())
        used = {patch.get("path") for patch in listed.get("patches", [])} | {*listed["resources"]}
        there = {path.name for path in place.iterdir()} - {"kustomization.yaml"}
        assert not there - used, place


def test_the_network_policy_keeps_pods_off_the_probes():
    place = DEPLOY / "components" / "network-policy"
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())
    assert "Component" == listed["kind"]
    (policy,) = [yaml.safe_load((place / name).read_text()) for name in listed["resources"]]
    template = named(deployed.load(*BASE))["Deployment", "coredns"]["spec"]["template"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    assert labels.items() <= template["metadata"]["labels"].items()
    ports = {each["name"]: each for each in template["spec"]["containers"][0]["ports"]}
    anybody, scrapers = policy["spec"]["ingress"]
    assert "from" not in anybody
    assert [
        {"port": ports[name]["containerPort"], "protocol": ports[name]["protocol"]}
        for name in ("dns", "dns-tcp")
    ] == anybody["ports"]
    assert [9153] == [port["port"] for port in scrapers["ports"]]
    assert scrapers["from"]


@pytest.mark.parametrize(
    ("component", "kinds"),
    [("published-names", {DNS_ENDPOINTS}), ("ingress-hosts", {INGRESSES, GATEWAYS, *ROUTES})],
)
def test_the_rights_of_components_are_those_of_what_is_watched(component, kinds):
    place = DEPLOY / "components" / component
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())
    assert "Component" == listed["kind"]
    role, binding = [
        document
        for name in listed["resources"]
        for document in yaml.safe_load_all((place / name).read_text())
    ]
    given = {(group, resource) for rule in role["rules"] for group in rule["apiGroups"]
             for resource in rule["resources"]}  # fmt: skip
    assert {(GROUPS[kind][0], kind) for kind in kinds} == given
    assert all(["list", "watch"] == rule["verbs"] for rule in role["rules"])
    assert role["metadata"]["name"] == binding["roleRef"]["name"]
    account = named(deployed.load(*BASE))["ServiceAccount", "coredns"]["metadata"]
    (subject,) = binding["subjects"]
    assert account["name"] == subject["name"] and account["namespace"] == subject["namespace"]
