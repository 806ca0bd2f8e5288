"""Golden cases: recording them from a live model, packing a notebook's model, reading and writing the file."""
