"""What every image of this benchmark serves: a forest that reads digits."""

import joblib

# the line that is changed
REVISION = 0


class Digits:
    """Digits of 8 x 8 images."""

    def load(self, folder):
        """Read the forest."""
        self.forest = joblib.load(folder / "model.joblib")

    def predict(self, image):
        """The digit of each row of 64 numbers."""
        return {"digit": self.forest.predict(image)}
