"""YAML, as manifests and kubeconfigs have it: PyYAML, in C where that was compiled.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from clusterdns.errors import ClusterDNSError

# PyYAML raises these for words that do not fit their tag, such as `!!timestamp x` or `!!bool x`.
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(ClusterDNSError):
    """Octets that are no YAML. Its text may have some of them; ``line`` is 0 where unknown."""

    def __init__(self, reason: object, line: int = 0) -> None:
        super().__init__(str(reason))
        self.line = line


def documents(octets: bytes) -> Iterator[object]:
    """Return what each document stands for. Raises YamlError."""
    try:
        yield from yaml.load_all(octets, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise YamlError(error.problem, line) from error
    except (yaml.YAMLError, ValueError, RecursionError, *_UNFIT) as error:
        raise YamlError(error) from error
