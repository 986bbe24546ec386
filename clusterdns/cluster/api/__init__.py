"""The Kubernetes API: where it is, and what is read from it.

server.py      what it is to a client
access.py      the way to it: connections, tokens
location.py    its URL, and which proxy leads there                             Pure
identity.py    certificates and keys, from files or from memory
kubeconfig.py  what a context of a kubeconfig says
login.py       `exec` and `auth-provider`, by the kubernetes package
client.py      requests and replies
jsonstream.py  items of a stream                                                 Pure
versions.py    UIDs and resource versions                                       Pure
backoff.py     when it may be asked again
reflector.py   one kind: list, watch, resume
audit.py       what is known compared with the server
snapshot.py    the cluster as last known, in a file
watch.py       the watcher of an API server
"""
