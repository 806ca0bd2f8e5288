"""The corridor: inspect, lock, build, check; each room takes a value from the left and hands one to the right."""
