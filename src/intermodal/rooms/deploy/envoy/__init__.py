"""Envoy as the gateway: from a plan to its files, and what it answers about them. Any target may run it."""
