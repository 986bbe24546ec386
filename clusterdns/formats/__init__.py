"""Text files that plugins read: master files, hosts files, weights.

masterfile.py   master files, text -> records with their lines                  Pure
hostsfile.py    lines of a hosts file, and what they say of a name              Pure
weightsfile.py  weights of addresses, by name                                   Pure
"""
