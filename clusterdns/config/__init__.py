"""From the text of a configuration to what can be served.

compile.py    Corefile -> views and listeners
advice.py     remarks on what can be served, but may not be meant
places.py     columns of words
fragments.py  imported files that may be left out                               Pure
check.py      what would be served, and what stands in the way
kubedns.py    kube-dns's ConfigMap -> Corefile                                  Pure
inforce.py    lines in force, with what they do, without secrets
configdir.py  kube-dns's ConfigMap where it is mounted, served
configmap.py  a ConfigMap with a configuration, mounted or as a manifest
loader.py     where the configuration comes from
lab.py        the lab cluster
"""
