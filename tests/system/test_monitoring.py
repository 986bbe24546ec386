"""deploy/monitoring: every metric in it is one the server exports, and every alert can fire.

What is exported is taken from a real exposition with a sample of every family. promtool, if there is
one, parses all expressions and runs the alerts over invented series.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from deployed import BASE, DEPLOY, load, named
from prometheus_client.parser import text_string_to_metric_families

from clusterdns.chain import registry
from clusterdns.metrics import exposition

MONITORING = DEPLOY / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
(RULES,) = load(MONITORING / "alerts.yaml")
ALERTS = {rule["alert"]: rule for group in RULES["spec"]["groups"] for rule in group["rules"]}
OF_PROMETHEUS = {"up": frozenset[str]()}  # said by Prometheus itself about what it scrapes
ADDED = {"job", "instance"}  # labels that Prometheus adds
_METRIC = re.compile(r"\b(?:(?:coredns|clusterdns|process)_[a-z_]+|up\b)")
_SELECTOR = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
_BY = re.compile(r"\bby \(([^)]*)\)")


def exported() -> dict[str, frozenset[str]]:
    """Return the label names of every metric that a scrape can bring, `process_*` included."""
    declared = {
        k: v for word in registry.available() for k, v in registry.load(word).families.items()
    }
    samples = []
    for name, family in (declared | exposition.FAMILIES).items():
        value = (1.0,) * (len(family.bounds) + 2) if family.bounds else 1
        samples.append((name, tuple(f"a {label}" for label in family.labels), value))
    text = exposition.exposition(samples, [os.getpid()], declared).decode()
    return {
        sample.name: frozenset(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


EXPORTED = exported() | OF_PROMETHEUS


def panels() -> Iterator[dict]:
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> dict[str, str]:
    """Return every PromQL expression by where it stands."""
    found = {name: rule["expr"] for name, rule in ALERTS.items()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"{panel['title']}/{target['refId']}"] = target["expr"]
    return found


EXPRESSIONS = expressions()


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_the_server_exports_what_is_asked_for(where):
    expression = EXPRESSIONS[where]
    asked = set(_METRIC.findall(expression))
    assert asked
    assert not asked - EXPORTED.keys()
    for metric, selector in _SELECTOR.findall(expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
        assert labels <= EXPORTED[metric] | ADDED, metric
    known = ADDED.union(*(EXPORTED[metric] for metric in asked))
    for names in _BY.findall(expression):
        assert {name.strip() for name in names.split(",")} <= known


def test_a_name_that_is_not_exported_would_be_noticed():
    assert "coredns_dns_responses" not in EXPORTED
    assert "coredns_dns_requests_total" in EXPORTED
    assert {"le", "zone"} < EXPORTED["coredns_dns_request_duration_seconds_bucket"]
    assert "process_resident_memory_bytes" in EXPORTED


def test_every_metric_of_our_own_is_watched_or_shown():
    known = {name for name in EXPORTED if name.startswith("clusterdns_")}
    shown = {name for text in EXPRESSIONS.values() for name in _METRIC.findall(text)}
    assert {
        "clusterdns_build_info",  # of no consequence but what a query costs
        "clusterdns_kubernetes_bookmark_age_seconds",  # the contact's age says the same, sooner
        "clusterdns_kubernetes_event_age_seconds",
        "clusterdns_kubernetes_snapshot_age_seconds",  # its objects count as stale
    } == known - shown


# ---- structure


def test_the_monitor_selects_the_services_of_the_base_and_of_nodelocal():
    (monitor,) = load(MONITORING / "servicemonitor.yaml")
    assert ("monitoring.coreos.com/v1", "ServiceMonitor") == (
        monitor["apiVersion"],
        monitor["kind"],
    )
    spec = monitor["spec"]
    (expression,) = spec["selector"]["matchExpressions"]
    base = named(load(*BASE))["Service", "kube-dns"]
    nodelocal = named(load(DEPLOY / "overlays" / "nodelocal" / "service.yaml"))
    for service in (base, nodelocal["Service", "node-local-dns"]):
        assert service["metadata"]["labels"][expression["key"]] in expression["values"]
        assert service["metadata"]["labels"][spec["jobLabel"]] in ("kube-dns", "node-local-dns")
        assert spec["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    upstream = nodelocal["Service", "kube-dns-upstream"]["spec"]["ports"]
    assert spec["endpoints"][0]["port"] not in {port["name"] for port in upstream}


def test_the_alerts_have_what_an_operator_needs():
    assert ("monitoring.coreos.com/v1", "PrometheusRule") == (RULES["apiVersion"], RULES["kind"])
    for name, rule in ALERTS.items():
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {
            "alert", "expr", "for", "labels", "annotations",
        }, name  # fmt: skip
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == rule["annotations"].keys()
        asked = set(_METRIC.findall(rule["expr"]))
        known = ADDED.union(*(EXPORTED[metric] for metric in asked))
        used = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        assert set(used) <= known


def test_the_dashboard_is_laid_out():
    idents = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(idents) == len(set(idents))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"datasource", "job", "instance"} == variables
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables


# ---- through promtool


def promtool(*arguments: str) -> None:
    program = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool: apt-get install prometheus, or set PROMTOOL")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_all_expressions(tmp_path):
    records = [
        {"record": f"r:{i}", "expr": text.replace("$__rate_interval", "5m")}
        for i, text in enumerate(EXPRESSIONS.values())
    ]
    groups = [*RULES["spec"]["groups"], {"name": "dashboard", "rules": records}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


JOB = 'job="kube-dns", instance="10.0.0.5:9153"'
LE = f'coredns_dns_request_duration_seconds_bucket{{{JOB}, server="dns://:53", zone=".", le='
HEALTHY = {
    f"up{{{JOB}}}": "1x90",
    f'coredns_dns_responses_total{{{JOB}, rcode="NOERROR"}}': "0+60000x90",
    f'coredns_dns_responses_total{{{JOB}, rcode="SERVFAIL"}}': "0+60x90",  # one in a thousand
    LE + '"0.001"}': "0+59000x90",
    LE + '"2.048"}': "0+60000x90",
    LE + '"+Inf"}': "0+60000x90",
    f"coredns_forward_healthcheck_broken_total{{{JOB}}}": "0x90",
    f'coredns_proxy_healthcheck_failures_total{{{JOB}, to="192.0.2.1:53"}}': "0+1x3 3x86",
    f"coredns_forward_max_concurrent_rejects_total{{{JOB}}}": "7x90",
    f'clusterdns_forwarding_loop{{{JOB}, server="dns://:53"}}': "0x90",
    f'clusterdns_kubernetes_stale_objects{{{JOB}, kind="services"}}': "40x4 0x85",  # four minutes
    f'clusterdns_kubernetes_audit_divergences_total{{{JOB}, kind="services"}}': "2x90",
    f'clusterdns_shed_queries_total{{{JOB}, server="dns://:53"}}': "100x90",
    f"process_resident_memory_bytes{{{JOB}}}": f"{100 * 2**20}x90",
    f"coredns_reload_failed_total{{{JOB}}}": "1x90",
    f"coredns_panics_total{{{JOB}}}": "1x90",
    f"clusterdns_fragments_refused{{{JOB}}}": "1x4 0x85",  # four minutes
    f"clusterdns_former_workers{{{JOB}}}": "1x4 0x85",  # four minutes
    f"clusterdns_log_lines_dropped_total{{{JOB}}}": "9x90",
    f"clusterdns_etcd_failures_total{{{JOB}}}": "0x90",
    f'clusterdns_dnstap_dropped_total{{{JOB}, endpoint="/run/tap"}}': "9x90",
}
# What goes wrong, and the alert: the series whose name begins so has these values instead.
FAULTS = {
    "ClusterDNSDown": {"up": "0x90"},
    "ClusterDNSServfail": {LE: "", f'coredns_dns_responses_total{{{JOB}, rcode="S': "0+900x90"},
    "ClusterDNSLatency": {LE + '"0.001"': "0+50000x90"},
    "ClusterDNSUpstreamsDown": {"coredns_forward_healthcheck": "0+2x90"},
    "ClusterDNSUpstreamUnhealthy": {"coredns_proxy_healthcheck": "0+30x90"},
    "ClusterDNSUpstreamBacklog": {"coredns_forward_max": "0+60x90"},
    "ClusterDNSForwardingLoop": {"clusterdns_forwarding_loop": "0x80 1x9"},
    "ClusterDNSStaleObjects": {"clusterdns_kubernetes_stale": "0x70 40x19"},
    "ClusterDNSAuditDivergence": {"clusterdns_kubernetes_audit": "0x60 1x29"},
    "ClusterDNSShedding": {"clusterdns_shed": "0+60x90"},
    "ClusterDNSMemory": {"process_resident": f"{160 * 2**20}x90"},
    "ClusterDNSReloadFailed": {"coredns_reload": "0x80 1x9"},
    "ClusterDNSFragmentRefused": {"clusterdns_fragments": "0x70 1x19"},
    "ClusterDNSFormerWorkers": {"clusterdns_former_workers": "0x70 1x19"},
    "ClusterDNSLogLinesDropped": {"clusterdns_log_lines": "0+60x90"},
    "ClusterDNSDnstapDropped": {"clusterdns_dnstap_dropped": "0+60x90"},
    "ClusterDNSEtcdFailing": {"clusterdns_etcd": "0+30x90"},
    "ClusterDNSPanics": {"coredns_panics": "0x80 1x9"},
}


def test_every_alert_has_a_fault():
    assert ALERTS.keys() == FAULTS.keys()


def series(changes: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for name, values in HEALTHY.items():
        for start, others in changes.items():
            if name.startswith(start):
                values = others
        if values:
            found.append({"series": name, "values": values})
    return found


def test_every_alert_fires_when_it_should_and_no_other_does(tmp_path):
    groups = RULES["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    cases = []
    for alert, changes in {"": {}, **FAULTS}.items():
        expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
        times = ["88m"] if alert else ["4m", "88m"]  # what is over soon is no alert
        questions = [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": time,
                "exp_samples": expected,
            }
            for time in times
        ]
        cases.append(
            {"interval": "1m", "input_series": series(changes), "promql_expr_test": questions}
        )
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(tmp_path / "test.yaml"))
