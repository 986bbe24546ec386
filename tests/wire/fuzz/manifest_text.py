# Invariant: whatever the YAML, its documents are read or refused with YamlError or ManifestError; an
# object is cut down or refused with ObjectError; and the store takes whatever was cut, and its going.
"""Fuzz manifests: ``guided.py manifest_text``."""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path

import guided
import yaml
from watch_stream import VALUES

from clusterdns.cluster import manifests, objects, yamltext
from clusterdns.cluster.feed import plain
from clusterdns.cluster.manifests import ManifestError
from clusterdns.cluster.objects import MANIFEST_KINDS, ObjectError
from clusterdns.cluster.store import Store
from clusterdns.cluster.yamltext import YamlError
from clusterdns.host import channel

PATH = Path("f.yaml")
OBJECTS = Path(__file__).resolve().parents[1] / "cases" / "objects"
WORDS = (
    b"kind: Service\n", b"kind: EndpointSlice\n", b"kind: Pod\n", b"kind: ServiceImport\n",
    b"kind: List\nitems:\n- ", b"---\n", b"metadata: {name: a, namespace: b}\n", b"&a ", b"*a", b"[]",
    b"{}", b"null", b"!!binary ", b"!!timestamp 2026-01-01", b"!!set", b"<<: *a\n", b"1e400", b".nan", b"0x7f",
    b"clusterIPs: [None]\n", b"hostname: h\n", b"endpoints:\n- addresses: [10.0.0.1]\n", b"'\\0'", b'"\\ud800"',
    b"ports: [{port: 80, name: p, protocol: TCP}]\n", b"externalName: x.y\n", b"podIPs: [{ip: '::1'}]\n",
)  # fmt: skip
PER_SEED = 1500  # octets: whole documents, so that mutations meet them


def seeds() -> list[bytes]:
    """Return the documents of the case files."""
    found: list[bytes] = []
    for path in sorted(OBJECTS.glob("*.yaml")):
        for document in re.split(rb"^---.*\n", path.read_bytes(), flags=re.MULTILINE):
            if found and len(found[-1]) + len(document) < PER_SEED:
                found[-1] += b"---\n" + document
            else:
                found.append(document)
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nkind: List\nitems: [*b, {kind: Service, metadata: *a}]\n"
    return [*found, bomb, json.dumps({"kind": "ServiceList", "items": []}).encode()]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return manifests with one value changed, or other octets."""
    with contextlib.suppress(
        yaml.YAMLError, ValueError, RecursionError, ArithmeticError, AttributeError, LookupError, TypeError
    ):  # fmt: skip
        if rng.random() < 0.6:
            found = list(yaml.safe_load_all(data))
            return yaml.safe_dump_all(guided.varied(rng, found, VALUES)).encode()
    return guided.mutated(rng, data, WORDS)


def examine(data: bytes) -> None:
    """Hold the invariant for one text."""
    store = Store(MANIFEST_KINDS)
    applied = []
    with contextlib.suppress(YamlError, ManifestError):
        for document in yamltext.documents(data):
            for manifest in manifests._flatten(document, PATH):
                for kind in MANIFEST_KINDS:
                    try:
                        key, found = objects.cut(
                            kind, manifest, keeps_zones=True, keeps_external=True
                        )
                    except ObjectError as error:
                        str(error).encode()
                        continue
                    if found is not None:
                        change = kind, key, plain(found)
                        channel.frame(("changes", [change]))  # can be sent to a worker
                        store.apply(change, 1)
                        applied.append((kind, key, None))
    for change in applied:
        store.apply(change, 2)
    assert not store.services.by_name
    assert not store.pods
