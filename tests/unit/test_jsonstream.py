"""Metadata of a list that is no object, and annotations that are none: a server's fault, not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusterdns.cluster.api.jsonstream import Items
from clusterdns.cluster.api.reflector import Reflector, _Stream
from clusterdns.cluster.objects import SERVICES
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError


@pytest.mark.parametrize("metadata", [None, [1], "text", 7, {"continue": "x"}])
def test_metadata_of_a_list_are_an_object(metadata):
    items = Items()
    octets = json.dumps({"metadata": metadata, "items": [{}]}).encode()
    assert [{}] == [*items.feed(octets), *items.end()]
    assert (metadata if isinstance(metadata, dict) else {}) == items.metadata


@pytest.mark.parametrize("annotations", [[1], "text", 7, {"x": "y"}, None])
def test_a_bookmark_without_the_right_annotation_ends_no_list(annotations):
    nobody: Any = None
    source = Source(manifests="", kinds=(SERVICES,))
    found = Reflector(SERVICES, source, client=nobody, gate=nobody, sink=nobody)
    metadata = {"resourceVersion": "9", "annotations": annotations}
    line = json.dumps({"type": "BOOKMARK", "object": {"metadata": metadata}}).encode() + b"\n"
    with pytest.raises(ApiError, match="no streamed lists"):
        found._read(_Stream(set()), line)
