"""The text of a Corefile: words, grammar, arguments.

lexer.py      text -> words                                                     Pure
files.py      imported files on disk
keys.py       keys of server blocks: zones, ports                               Pure
parser.py     words -> server blocks                                            Pure
arguments.py  readers of arguments
layout.py     one form of a Corefile                                            Pure
checks.py     what needs all blocks                                             Pure
"""
