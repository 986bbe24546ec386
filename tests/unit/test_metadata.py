"""Labels of queries: collected when asked for, of the question as the client put it."""

from __future__ import annotations

import asyncio

import dns.message
import pytest
from inprocess import InProcess

from clusterdns.chain import metadata
from clusterdns.wire import message, reading

POD = {
    "kind": "Pod",
    "metadata": {"name": "client", "namespace": "demo"},
    "status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]},
}
COREFILE = """. {{
    metadata {zones}
    kubernetes cluster.local {{
        manifests {directory}
        pods verified
    }}
}}
"""


def query_of(qname: str) -> message.Query:
    found = reading.read_query(dns.message.make_query(qname, "A").to_wire())
    assert isinstance(found, message.Query)
    found.client = ("127.0.0.1", 53000)
    return found


async def labels(directory, qname: str, zones: str = "") -> dict[str, str]:
    corefile = COREFILE.format(directory=directory, zones=zones)
    async with InProcess(corefile, [POD]) as server:
        view = server.configuration.views[0]
        query = query_of(qname)
        view.collect(query)
        assert query.metadata is not None
        return {label: query.label(label) for label in query.metadata.names()}


@pytest.mark.parametrize(
    ("qname", "found"),
    [
        ("web.demo.svc.cluster.local.", {"kind": "svc", "namespace": "demo", "service": "web"}),
        (
            "_http._tcp.Web.demo.svc.cluster.local.",
            {"kind": "svc", "namespace": "demo", "service": "web", "port-name": "http",
             "protocol": "tcp"},
        ),
        ("svc.cluster.local.", {}),
        ("no.cluster.local.", {"parse-error": "invalid query name"}),
        ("example.org.", {}),
    ],
)  # fmt: skip
def test_labels_of_a_name_in_the_cluster(qname, found, tmp_path):
    said = asyncio.run(labels(tmp_path, qname))
    client = {"client-namespace": "demo", "client-pod-name": "client"}
    expected = {f"kubernetes/{word}": text for word, text in {**found, **client}.items()}
    assert expected == {label: text for label, text in said.items() if text}


def test_no_labels_outside_the_zones(tmp_path):
    assert asyncio.run(labels(tmp_path, "web.demo.svc.cluster.local.", "example.org")) == {}


def test_providers_are_asked_once_and_only_if_somebody_wants_a_label():
    asked = []

    def provide(query):
        asked.append(query)
        return {"test/name": lambda: "value"}

    query = query_of("example.org.")
    query.metadata = metadata.Metadata(query, [provide])
    assert asked == []
    assert query.label("test/name") == "value"
    assert query.label("test/other") == ""
    query.metadata.put("test/other", lambda: "put")
    assert query.asking(query.question).label("test/other") == "put"
    assert asked == [query]


@pytest.mark.parametrize(
    ("text", "is_label"),
    [("a/b", True), ("a/b/c", True), ("a/", False), ("/b", False), ("ab", False), ("", False)],
)
def test_labels_have_a_slash_inside(text, is_label):
    assert message.is_label(text) is is_label
