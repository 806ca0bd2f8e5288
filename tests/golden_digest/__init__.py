"""A frozen project whose image's digest is written down; `python -m tests.golden_digest` builds and compares it."""
