"""The allow-list symbolic unpickler: what a pickle would build and call, found out without importing anything."""
