"""Addresses: sets of networks, IPv4 addresses within IPv6 addresses."""
