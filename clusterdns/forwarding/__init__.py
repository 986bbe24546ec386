"""Queries to upstream servers: choice of the server, transport, waiting clients, replies."""
