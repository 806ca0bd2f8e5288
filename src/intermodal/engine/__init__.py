"""What runs containers on this machine: one file per engine behind `interface.py`."""
