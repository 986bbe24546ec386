"""clusterdns - a watch-driven DNS server for Kubernetes, a drop-in for CoreDNS."""

__version__ = "1.0.0"

# The CoreDNS release whose Corefile, answers, flags and metrics are matched.
COREDNS_VERSION = "1.15.0"
