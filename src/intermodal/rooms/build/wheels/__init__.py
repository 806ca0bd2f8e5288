"""Wheels become layers: read without trust, installed by the book, pruned, spliced.

archive.py   a wheel's members, checked against its directory and RECORD
install.py   where each member goes, and the files an installer adds
prune.py     what is left out, by the rules of prune.toml
layers.py    which wheels share a layer, and the layer's identity
build.py     the layers themselves, byte code included
"""
