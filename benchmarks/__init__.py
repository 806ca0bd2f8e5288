"""Measurements, one command each: `./dev bench build`. Nothing here is a test; a test never looks at a clock."""
