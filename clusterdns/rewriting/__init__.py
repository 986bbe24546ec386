"""The rules of `rewrite`, which change questions and replies.

matching.py    which names a rule is for                                        Pure
replies.py     changes of replies                                               Pure
rule.py        what a rule is; types and classes                                Pure
namerule.py    `name`                                                           Pure
replyrules.py  `ttl`, `rcode`, `cname`                                          Pure
optionrule.py  `edns0`                                                          Pure
parse.py       words -> rule                                                    Pure
"""
