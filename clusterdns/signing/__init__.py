"""Keys and signatures of DNSSEC.

keys.py        key files -> keys, by the cryptography package
signatures.py  signatures of RRsets, cached
answers.py     responses signed on the fly
zones.py       whole zones signed
"""
