"""The replies `cache` keeps: options, rules, and bounded stores.

options.py  what may be set                                                     Pure
rules.py    what is kept, and how long                                          Pure
kept.py     responses, bounded in octets                                        Pure
fresh.py    replies nobody has asked for again, as octets                       Pure
shelf.py    the replies of one `cache`, and which may answer                    Pure
spared.py   zones that it leaves alone                                          Pure
counts.py   what is counted                                                     Pure
"""
