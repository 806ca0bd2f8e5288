"""Fuzzing of the readers of strangers' bytes: zip (wheels, skops), tar (layers), ar (.debs), pickle (models), requests.

    python -m tests.fuzz --reader tar --minutes 15       coverage-guided where atheris installs, else by structure
    python -m tests.fuzz --reader all --runs 2000        a fixed number of mutations, the same every time

`targets.py` says what a reader must keep, `guard.py` watches it, `mutate.py` makes inputs, `corpus/` holds the seeds.
"""
