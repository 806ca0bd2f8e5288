"""The project file: schema, defaults, loading, and `init`."""
