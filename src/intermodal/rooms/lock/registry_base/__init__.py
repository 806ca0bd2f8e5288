"""Bases that are images of a registry: which one, its layers in the local store, and the Python in them."""
