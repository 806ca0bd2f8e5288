"""The application of the frozen project."""


class Predictor:
    """Is stored, never run."""
