"""A model that is plain Python: how far apart two places on Earth are, and which way to go."""

import json

import numpy as np


class Distance:
    """Great-circle distance and initial bearing; the first axis of every array is the batch."""

    def load(self, folder):
        """Read what `predict` needs from `folder`, which holds the artifact."""
        self.radius_km = json.loads((folder / "earth.json").read_text())["radius_km"]

    def predict(self, start, end):
        """Distance in km and bearing in degrees from `start` to `end`, each (batch, 2) of latitude, longitude."""
        a, b = np.radians(start), np.radians(end)
        turn = b[:, 1] - a[:, 1]
        half = np.sin((b[:, 0] - a[:, 0]) / 2) ** 2 + np.cos(a[:, 0]) * np.cos(b[:, 0]) * np.sin(turn / 2) ** 2
        y = np.sin(turn) * np.cos(b[:, 0])
        x = np.cos(a[:, 0]) * np.sin(b[:, 0]) - np.sin(a[:, 0]) * np.cos(b[:, 0]) * np.cos(turn)
        return {
            "distance_km": 2 * self.radius_km * np.arcsin(np.sqrt(half)),
            "bearing_deg": np.degrees(np.arctan2(y, x)) % 360,
        }
