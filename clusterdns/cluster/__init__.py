"""The cluster as DNS sees it: objects cut down to DNS facts, joined, and turned into records.

fields.py      readers of the fields of manifests                               Pure
published.py   objects that only some plugins want, cut down                    Pure
objects.py     EndpointSlices and the like, cut down to DNS facts               Pure
selectors.py   label selectors                                                  Pure
source.py      where objects come from                                          Pure
settings.py    what a `kubernetes` sets: its arguments and its block
store.py       joined objects, event -> facts                                   Pure
clients.py     which namespace a client is in                                  Pure
reasons.py     sentences about what a lookup found                              Pure
dnsservice.py  Services in front of the DNS server
evidence.py    the objects behind an answer, whole and as they are now
records.py     name -> entries: addresses and ports of endpoints                Pure
respond.py     entries -> Response                                              Pure
wholezone.py   all records of a zone, for a transfer                            Pure
external.py    names of external addresses -> Response                          Pure
inside.py      the cluster that a block answers from                            Pure
feed.py        events from a watcher to the workers
yamltext.py    YAML                                                             Pure
manifests.py   the watcher of files on disk
watcher.py     the life of a watcher process
api/           the API server
"""
