"""Servers swapped behind the real Envoy while they are asked, and the count of the requests that were lost: none."""
