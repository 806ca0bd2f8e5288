"""Stands for the inference server, so that work on the real one moves no golden digest."""
