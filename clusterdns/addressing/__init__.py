"""Addresses: sets of networks, IPv4 addresses within IPv6 addresses.

networks.py     sets of networks                                                Pure
translation.py  what `dns64` and `siit` share
"""
