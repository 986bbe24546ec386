"""The machine this runs on: logs, files, interfaces, resolver settings.

logs.py         CoreDNS's log lines
channel.py      a stream of frames between two processes
addresses.py    host:port, read and printed                                     Pure
socketdrops.py  datagrams that the kernel has dropped
interfaces.py   addresses of this host, socket addresses
libc.py         what Python's library has no call for
stamp.py        whether a file has changed
filetree.py     files below a directory, links followed
tasks.py        how a task ends
encryption.py   certificates and keys of a listener
localsocket.py  where commands ask a running server
resolvconf.py   what glibc, musl and Go ask                                     Pure
"""
