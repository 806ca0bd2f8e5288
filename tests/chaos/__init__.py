"""Load with a model that misbehaves in every way at 5 % of the requests, and the proof that nobody else notices."""
