"""A registry that fails on purpose, and what has to hold for whoever pushes to it and pulls from it."""
