"""metadata - give labels to queries, which other plugins can use.

Syntax:

    metadata [ZONES...]

Queries in ZONES, by default those of the server block, have labels of the form `plugin/name`. A
label is computed only when a plugin reads it: `log` in a `{/plugin/name}` token, `rewrite` in a
`{plugin/name}` of a replacement or an EDNS option, `template` as `{{ .Meta "plugin/name" }}`, and
`view` as `metadata('plugin/name')`.

* `forward/upstream`: the server that replied, as `ADDRESS:PORT`.
* `kubernetes/port-name`, `/protocol`, `/endpoint`, `/service`, `/namespace`, `/kind`: the parts of
  a name in the cluster; `kubernetes/parse-error` if it has none.
* `kubernetes/client-namespace`, `/client-pod-name`: the client's Pod, with `pods verified`.
* `view/name`: the name of the block's `view`.

Examples:

    . {
        metadata example.org
        log . "{remote} {name} {/forward/upstream}"
        forward . 192.0.2.53
    }

Differences from CoreDNS: labels cost nothing until a plugin reads one. Labels of Pods are not
kept, so there is no `kubernetes/client-label/KEY`.
"""

from __future__ import annotations

from clusterdns.chain.bases import Passing
from clusterdns.chain.block import Block
from clusterdns.chain.metadata import Collector
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive


class Metadata(Passing, Collector):
    """Marks a block that collects labels, see ``View.collect``; lets every question pass."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.block:
            raise directive.block[0].unknown()
        self.label_zones = arguments.zone_names(directive.args, directive) or block.zones

    def relay(self, route: Route) -> bool:
        """Return True: plugins that use labels disable the relay."""
        return True
