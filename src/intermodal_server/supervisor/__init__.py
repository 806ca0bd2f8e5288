"""PID 1 of the image: starts front and workers, reaps, replaces, drains. Standard library only."""
