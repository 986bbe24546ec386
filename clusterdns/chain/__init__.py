"""Plugins, and how they make up a server block.

plugin.py      the two methods of a plugin, and a chain of them                 Pure
block.py       a server block as its plugins see it while they are made         Pure
registry.py    which plugins there are, and in which order
bases.py       bases of plugins that look at the question, or at the answer, alone
polling.py     base of plugins that poll files
limits.py      rate limits by client, and what counts
classes.py     classes of clients that get the same answers                    Pure
route.py       what a chain does to plain queries for outside                   Pure
asking.py      answers that take questions of their own, in both folds
searchpath.py  walks a search path
metadata.py    labels of a query, said by plugins for plugins                   Pure
querytext.py   what formats say of a query, by token                            Pure
watched.py     a chain whose plugins are watched while they answer              Pure
view.py        server blocks, and which one answers                             Pure
"""
