"""The packet path: sockets, the answer table, and their twins in C."""
