"""The program: says on what it cannot run, and hands over to the command line."""

from __future__ import annotations

import sys

# Before the import of code that an older Python cannot parse.
if sys.version_info < (3, 11):  # noqa: UP036 - who runs it has not installed it by pip
    sys.exit("clusterdns: wants Python 3.11 or later, this is " + sys.version.split()[0])
if sys.platform != "linux":
    sys.exit("clusterdns: wants Linux (epoll, SO_REUSEPORT, /proc), this is " + sys.platform)

from clusterdns.commands import line


def main() -> int:
    """Run clusterdns; return the exit status."""
    return line.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
