"""Which commands there are; each is imported when it is needed."""

from __future__ import annotations

import importlib

from clusterdns.commands.declaration import ENDS, Command

# In the order of the help, with the module of each.
NAMES = {
    "serve": "serve",
    "lab": "lab",
    "check": "check",
    "fmt": "fmt",
    "explain": "explain",
    "lookup": "lookup",
    "top": "top",
    "resolv-conf": "resolv_conf",
    "translate": "translate",
    "help": "help",
}


def load(name: str) -> Command:
    """Return the command with a name of ``NAMES``."""
    found: Command = importlib.import_module(f"clusterdns.commands.{NAMES[name]}").COMMAND
    return found


def overview() -> str:
    """Return what `clusterdns -h` prints: the commands, and the flags that work without one."""
    width = max(map(len, NAMES)) + 3
    flags = load("serve").parser()
    flags.usage = "clusterdns [FLAG...] | COMMAND ..."
    flags.description = "A DNS server for Kubernetes that reads CoreDNS's Corefile."
    listed = [f"  {each.ljust(width)}{load(each).summary}" for each in NAMES]
    flags.epilog = "\n".join(["commands (each with -h):", *listed, "", ENDS])
    return flags.format_help()
