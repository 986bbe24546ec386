"""Labels of a query: values that plugins provide to other plugins, as ``kubernetes/service``.

A server block with `metadata` gives each query in its zones a registry of labels. Providers are the
block's plugins (``Plugin.labels``), called when the first label is read, with the question of the
client, before any rewriting. Consumers are `log`, `rewrite`, `template` and `view`: they answer
through ``handle``, since labels differ between clients.
(CoreDNS: plugin/metadata/provider.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from clusterdns.wire import name
from clusterdns.wire.message import Query
from clusterdns.wire.name import WireName

Value = Callable[[], str]
Provide = Callable[[Query], Mapping[str, Value]]  # the labels a plugin provides for a query


class Metadata:
    """The labels of one query."""

    __slots__ = ("_providers", "_query", "_said")

    def __init__(self, query: Query, providers: Iterable[Provide]) -> None:
        self._query = query
        self._providers = providers
        self._said: dict[str, Value] | None = None

    def value(self, label: str) -> str | None:
        """Return the value of a label, None if it has none."""
        found = self._labels().get(label)
        return None if found is None else found()

    def put(self, label: str, value: Value) -> None:
        """Give a label the value that ``value`` returns, in place of an earlier one."""
        self._labels()[label] = value

    def names(self) -> list[str]:
        """Return all labels, in the order in which they were set."""
        return list(self._labels())

    def _labels(self) -> dict[str, Value]:
        if self._said is None:
            self._said = {}
            for provide in self._providers:
                self._said.update(provide(self._query))
        return self._said


class Collector:
    """The base of `metadata`: its block has labels for queries in ``label_zones``."""

    label_zones: tuple[WireName, ...] = ()

    def collect(self, query: Query, providers: Iterable[Provide]) -> None:
        """Give a query the registry of this block, an empty one outside of ``label_zones``."""
        question = query.question
        is_inside = question is not None and name.is_within_any(question.folded, self.label_zones)
        query.metadata = Metadata(query, providers if is_inside else ())
